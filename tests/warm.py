"""Commands without their imports: a server imports what a command needs once, and forks for every call.

``WarmCommands`` makes a folder with ``python`` and ``dvc`` in it, to be put first on PATH. ``dvc ...`` and
``python -m stages.NAME ...`` run there with the arguments, working folder, environment, streams, signals and exit
status of the caller, in a fork of a process that has imported third-party packages and nothing of this repository.
All other calls of ``python`` go to the interpreter. Without pidfds (Linux) everything does.
"""

import atexit
import contextlib
import copy
import gc
import importlib
import json
import os
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


def preload(name: str) -> None:
    """Import the packages of one server, wherever they are of this version."""
    for module in PRELOADED[name]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    if name == "dvc":
        from dvc.cli.parser import get_main_parser

        get_main_parser()  # imports every command
        remember_parsed_yaml()


def remember_parsed_yaml() -> None:
    """Let dvc parse each text once per call: it reads the same few files a hundred times, in pure Python."""
    from dvc.utils.serialize import _yaml

    parse, known = _yaml.parse_yaml, {}

    def parse_once(text, path, typ="safe"):  # type: ignore[no-untyped-def]
        if typ != "safe":
            return parse(text, path, typ)
        if text not in known:
            known[text] = parse(text, path, typ)
        return copy.deepcopy(known[text])

    _yaml.parse_yaml = parse_once


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
    preload(sys.argv[1])
    gc.collect()
    gc.freeze()
    end_with(run(serve(sys.argv[2])))
