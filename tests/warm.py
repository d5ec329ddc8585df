"""Commands without their imports: a server imports what a command needs once, and forks for every call.

``WarmCommands`` makes a folder with ``python`` and ``dvc`` in it, to be put first on PATH. ``dvc ...`` and
``python -m stages.NAME ...`` run there with the arguments, working folder, environment, streams, signals and exit
status of the caller, in a fork of a process that has imported third-party packages and nothing of this repository.
They do not wait for the disk, and dvc parses each text once. All other calls of ``python`` go to the interpreter.
Without pidfds (Linux) everything does.
"""

import atexit
import contextlib
import gc
import hashlib
import importlib
import io
import json
import os
import pickle
import runpy
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import NoReturn

SUPPORTED = hasattr(os, "pidfd_open") and hasattr(socket, "recv_fds")
PRELOADED = {
    "stages": ["torch", "torch._dynamo", "pandas", "h5py", "PIL.Image", "ruamel.yaml", "scipy.special", "scipy.sparse",
               "sklearn.linear_model", "sklearn.datasets", "sklearn.metrics", "torchvision.utils",
               "torchvision.transforms.v2", "safetensors.torch"],
    "dvc": ["dvc.cli.parser", "dvc.repo.reproduce", "dvc.repo.experiments.run", "dvc.repo.experiments.show",
            "dvc.repo.experiments.queue.celery", "dvc.repo.experiments.executor.local", "dvc.repo.metrics.diff",
            "dvc.repo.plots", "dvc.render.match", "dvc.stage.run", "dvc.stage.cache", "dvc.scm", "dvc.api"],
}  # fmt: skip
CLIENT = """\
#!{python} -SE
import os, signal, socket, struct, sys
words = {words}
if not words:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
import json
request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
socket.send_fds(server, [struct.pack("i", len(request))], [0, 1, 2])
server.sendall(request)
status = struct.unpack("i", server.recv(4))[0]
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""
STAGE = 'sys.argv[2:] if sys.argv[1:2] == ["-m"] and sys.argv[2:3] and sys.argv[2].startswith("stages.") else None'
WORDS = {"dvc": ("dvc", '["dvc", *sys.argv[1:]]'), "python": ("stages", STAGE)}


class WarmCommands:
    """``folder`` holds the commands; ``close`` ends the servers."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="warm"))  # the address of a socket has 107 bytes at most
        self.servers: list[subprocess.Popen] = []
        if not SUPPORTED:
            return
        for name, (server, words) in WORDS.items():
            address = str(self.folder / f"{server}.socket")
            self.servers.append(
                subprocess.Popen(
                    [sys.executable, __file__, server, address],
                    stdin=subprocess.PIPE,  # its end is the end of the server
                    stdout=subprocess.PIPE,
                )
            )
            command = self.folder / name
            command.write_text(CLIENT.format(python=sys.executable, words=words, address=address))
            command.chmod(0o755)
        for process in self.servers:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        for process in self.servers:
            process.communicate()
        shutil.rmtree(self.folder)


_shared: list[WarmCommands] = []


def shared_commands() -> WarmCommands:
    """Those of this process, started at the first call."""
    if not _shared:
        _shared.append(WarmCommands())
    return _shared[0]


def close_shared_commands() -> None:
    while _shared:
        _shared.pop().close()


def preload(name: str, folder: Path) -> None:
    """Import the packages of one server, wherever they are of this version."""
    for module in PRELOADED[name]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    os.fsync = lambda number: None
    if name == "dvc":
        import diskcache.core
        from dvc.cli.parser import get_main_parser

        diskcache.core.DEFAULT_SETTINGS["sqlite_synchronous"] = 0
        get_main_parser()  # imports every command
        remember_yaml(folder)


def remember_yaml(folder: Path) -> None:
    """Let ruamel.yaml parse each text once for all calls, and never what it has written: it is slow pure Python.

    Args:
        folder: keeps what was parsed, for the next call.
    """
    from ruamel.yaml import YAML

    load, dump = YAML.load, YAML.dump

    def place(text: str, typ: str) -> Path:
        return folder / hashlib.sha256(f"{typ}\n{text}".encode()).hexdigest()

    def keep(data: object, path: Path) -> None:
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(pickle.dumps(data))
        partial.replace(path)

    def load_once(yaml, text):  # type: ignore[no-untyped-def]
        known = place(text, *yaml.typ)
        if not known.is_file():
            keep(load(yaml, text), known)
        return pickle.loads(known.read_bytes())  # noqa: S301 - our own file

    def dump_and_keep(yaml, data, stream):  # type: ignore[no-untyped-def]
        dump(yaml, data, written := io.StringIO())
        text = written.getvalue()
        keep(data, place(text, "rt"))
        keep(plain(data), place(text, "safe"))
        stream.write(text)

    YAML.load, YAML.dump = load_once, dump_and_keep  # type: ignore[method-assign]


def plain(data: object) -> object:
    """The values of a YAML document, without its comments and layout."""
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if data is None or isinstance(data, bool):
        return data
    return next(kind(data) for kind in (int, float, str) if isinstance(data, kind))


def serve(address: str) -> list[str]:
    """Fork for every request, and return in the child, with the words to run and in the caller's place."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    children: dict[object, tuple[int, int, socket.socket]] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                for pid in {pid for pid, _, _ in children.values()}:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            if key.fileobj is listener:
                caller = listener.accept()[0]
                size, streams, _, _ = socket.recv_fds(caller, 4, 3)
                request, length = b"", struct.unpack("i", size)[0]
                while len(request) < length:
                    request += caller.recv(length - len(request))
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    for connection in {listener, caller, *(caller for _, _, caller in children.values())}:
                        connection.close()
                    for number in {ended for _, ended, _ in children.values()}:
                        os.close(number)
                    return take_place(json.loads(request), streams)
                for stream in streams:
                    os.close(stream)
                ended = os.pidfd_open(pid)
                for source in (ended, caller):
                    children[source] = (pid, ended, caller)
                    selector.register(source, selectors.EVENT_READ)
            elif key.fileobj in children:
                pid, ended, caller = children[key.fileobj]
                if key.fileobj is caller:
                    numbers = caller.recv(1)
                    os.kill(pid, numbers[0] if numbers else signal.SIGKILL)
                    if numbers:
                        continue
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                for source in (ended, caller):
                    selector.unregister(source)
                    del children[source]
                with contextlib.suppress(OSError):  # the caller may be gone
                    caller.sendall(struct.pack("i", status))
                os.close(ended)
                caller.close()


def take_place(request: list, streams: list[int]) -> list[str]:
    """Take over streams, folder and environment of the caller; the words that it wants to be run."""
    words, folder, environment = request
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    return words


def run(words: list[str]) -> int:
    """Run ``dvc ...`` or the module ``words[0]`` as the interpreter would; the exit status."""
    sys.argv = words
    try:
        if words[0] == "dvc":
            from dvc.cli import main

            sys.exit(main())
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        return 1
    return 0


def end_with(status: int) -> NoReturn:
    """What the interpreter does at its end, but for a second of freeing objects."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    del sys.path[0]
    preload(sys.argv[1], Path(sys.argv[2]).parent)
    gc.collect()
    gc.freeze()
    end_with(run(serve(sys.argv[2])))
