"""Artifacts: whole or absent, the same bytes for the same content, and refused when damaged."""

import hashlib
import io
import os
import pickle
import signal
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from longtail.artifacts.atomic import atomic_open, atomic_path
from longtail.artifacts.checkpoints import load_checkpoint, save_checkpoint
from longtail.artifacts.digest import file_digest
from longtail.artifacts.features import Features, read_features, write_features
from longtail.artifacts.hdf5 import read_hdf5, write_hdf5
from longtail.artifacts.head_files import HeadFile, NetworkSize, read_head, write_head
from longtail.artifacts.scratch import Scratch, code_digest
from longtail.artifacts.tables import read_csv, read_json, write_csv, write_json
from longtail.core.errors import ArtifactError
from longtail.core.head import ClassMeans, LinearHead
from longtail.core.progress import Progress
from tests.refusals import refused

SCHEMA = "longtail/test/1"
ARRAYS = {
    "scores": np.arange(30, dtype=np.float32).reshape(10, 3),
    "history/loss": np.linspace(1, 0, 5),
    "label": np.arange(10),
    "names": np.array(["Möwe".encode(), b"cat"]),
}
ATTRIBUTES = {"method": "crt", "tau": 0.7, "epochs": 10, "online": False, "empty": ""}
FEATURES = Features(
    features=np.arange(12, dtype=np.float32).reshape(4, 3),
    labels=np.array([0, 1, 0, 1]),
    index=np.array([7, 8, 9, 3]),
    num_classes=2,
    dataset="digits",
    split_digest="abc",
    backbone_digest="def",
    transform="{}",
)
TENSORS = {"weight": torch.arange(12.0).reshape(3, 4), "steps": torch.tensor(5), "mask": torch.tensor([True, False])}
META = {"name": "resnet8", "width": None, "transform": {"mean": [0.5], "policy": "crop"}}


def in_child(work: Callable[[], object], timeout: int = 60) -> int:
    """Run ``work`` in a forked process; its wait status."""
    child = os.fork()
    if child == 0:
        signal.alarm(timeout)
        try:
            work()
        except BaseException:  # noqa: BLE001 - nothing of pytest may run in the child
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def kill_at(function: Callable, monkeypatch_target: tuple[object, str]) -> int:
    """Run ``function`` in a child that is killed when it reaches the named attribute."""

    def work() -> None:
        owner, name = monkeypatch_target
        setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        function()

    return in_child(work)


def same(a: object, b: object) -> bool:
    left, right = vars(a), vars(b)
    return left.keys() == right.keys() and all(np.array_equal(left[key], right[key]) for key in left)


def flips(size: int, step: int) -> list[tuple[int, int]]:
    """(byte, bit) positions spread over a file of ``size`` bytes."""
    return [divmod(position, 8) for position in range(0, 8 * size, step)]


def flipped(content: bytes, byte: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[byte] ^= 1 << bit
    return bytes(changed)


WRITERS: dict[str, Callable[[Path, int], object]] = {
    "hdf5": lambda path, n: write_hdf5(path, {"a": np.full(5000, n)}, {"n": n}, schema=SCHEMA),
    "checkpoint": lambda path, n: save_checkpoint(path, {"a": torch.full((5000,), n)}, {"n": n}),
    "csv": lambda path, n: write_csv(path, pd.DataFrame({"a": range(n)})),
    "json": lambda path, n: write_json(path, {"a": n}),
    "head": lambda path, n: write_head(path, HeadFile("crt", LinearHead(np.full((3, 2), n, np.float32)), "s", "b")),
    "features": lambda path, n: write_features(
        path, Features(np.full((4, 2), n, np.float32), np.arange(4), np.arange(4), 4, "digits", "s", "b", "{}")
    ),
}


@pytest.fixture(params=list(WRITERS))
def write(request):
    return WRITERS[request.param]


# Atomic


def test_error_in_the_middle_keeps_the_old_file_and_leaves_no_other(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_open(target) as file:
        file.write("new")
        file.flush()
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_error_before_the_first_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", [(Path, "replace"), (os, "fsync")], ids=["rename", "flush"])
def test_kill_in_the_middle_keeps_the_old_file_and_the_next_write_succeeds(tmp_path, write, moment):
    target = tmp_path / "file"
    write(target, 1)
    old = target.read_bytes()
    status = kill_at(lambda: write(target, 2), moment)
    assert os.WIFSIGNALED(status)
    assert target.read_bytes() == old
    write(target, 2)
    assert target.read_bytes() != old
    assert list(tmp_path.iterdir()) == [target]


def test_kill_in_the_first_write_leaves_no_target(tmp_path, write):
    target = tmp_path / "file"
    assert os.WIFSIGNALED(kill_at(lambda: write(target, 1), (Path, "replace")))
    assert not target.exists()


def test_half_written_partial_of_a_killed_process_is_replaced(tmp_path, write):
    target, clean = tmp_path / "file", tmp_path / "clean"
    (tmp_path / ".file.partial").write_bytes(b"left behind" * 10000)
    write(target, 1)
    write(clean, 1)
    assert target.read_bytes() == clean.read_bytes()


def test_missing_folders_are_made(tmp_path, write):
    write(tmp_path / "deep" / "er" / "file", 1)
    assert (tmp_path / "deep" / "er" / "file").is_file()


# The same bytes for the same content


def test_two_writes_some_time_apart_give_the_same_bytes(tmp_path):
    for kind, write in WRITERS.items():
        write(tmp_path / kind, 1)
    time.sleep(2.1)  # HDF5 stores times in seconds, zip in two seconds
    for kind, write in WRITERS.items():
        write(tmp_path / "other-folder" / f"{kind}-again", 1)
        assert (tmp_path / kind).read_bytes() == (tmp_path / "other-folder" / f"{kind}-again").read_bytes(), kind


def test_order_of_insertion_does_not_change_the_bytes(tmp_path):
    def backwards(mapping):
        return dict(reversed(mapping.items()))

    write_hdf5(tmp_path / "a.h5", ARRAYS, ATTRIBUTES, schema=SCHEMA)
    write_hdf5(tmp_path / "b.h5", backwards(ARRAYS), backwards(ATTRIBUTES), schema=SCHEMA)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    save_checkpoint(tmp_path / "a.pt", TENSORS, META)
    save_checkpoint(tmp_path / "b.pt", backwards(TENSORS), backwards(META))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    write_json(tmp_path / "a.json", META)
    write_json(tmp_path / "b.json", backwards(META))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_memory_layout_does_not_change_the_bytes(tmp_path):
    array = np.arange(12.0).reshape(3, 4)
    write_hdf5(tmp_path / "a.h5", {"a": array}, {}, schema=SCHEMA)
    write_hdf5(tmp_path / "b.h5", {"a": np.asfortranarray(array)}, {}, schema=SCHEMA)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    tensor = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path / "a.pt", {"a": tensor}, {})
    save_checkpoint(tmp_path / "b.pt", {"a": tensor.t().contiguous().t()}, {})
    save_checkpoint(tmp_path / "c.pt", {"a": torch.nn.Parameter(torch.arange(24.0)[:12].reshape(3, 4))}, {})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()


def test_file_digest_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


# HDF5


@pytest.fixture
def h5(tmp_path) -> Path:
    write_hdf5(tmp_path / "a.h5", ARRAYS, ATTRIBUTES, schema=SCHEMA)
    return tmp_path / "a.h5"


def refused_h5(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_hdf5(path, schema=SCHEMA, made_by="rebalance@crt")
    assert str(path) in str(caught.value)
    assert (caught.value.path, caught.value.maker) == (str(path), "rebalance@crt")
    return str(caught.value)


def test_hdf5_returns_what_was_written(tmp_path):
    write_hdf5(tmp_path / "a.h5", ARRAYS, ATTRIBUTES, schema=SCHEMA)
    content = read_hdf5(tmp_path / "a.h5", schema=SCHEMA, made_by="x")
    assert content.attributes == ATTRIBUTES
    assert {name: type(value) for name, value in content.attributes.items()} == {
        name: type(value) for name, value in ATTRIBUTES.items()
    }
    assert content.datasets.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(content.datasets[name], array)
        assert content.datasets[name].dtype == array.dtype


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (1,), (1025, 2), (2, 3, 4, 1)])
def test_hdf5_keeps_arrays_of_any_shape_with_checksums_where_there_is_data(tmp_path, shape):
    array = np.ones(shape, np.float32)
    write_hdf5(tmp_path / "a.h5", {"a": array}, {}, schema=SCHEMA)
    assert read_hdf5(tmp_path / "a.h5", schema=SCHEMA, made_by="x").datasets["a"].shape == shape
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["a"].fletcher32 == (array.size > 0)
        assert file["a"].chunks == ((min(1024, shape[0]), *shape[1:]) if array.size else None)
        assert file["a"].compression is None


@pytest.mark.parametrize("text", ["Möwe 海鸥 🐦", "", "a,b\n'\"", "x" * 5000])
def test_hdf5_keeps_text_attributes(tmp_path, text):
    write_hdf5(tmp_path / "a.h5", {}, {"text": text}, schema=SCHEMA)
    assert read_hdf5(tmp_path / "a.h5", schema=SCHEMA, made_by="x").attributes["text"] == text


def test_hdf5_keeps_names_of_8142_classes(tmp_path):
    names = np.array([f"Klasse ä {i}".encode() for i in range(8142)])
    write_hdf5(tmp_path / "a.h5", {"names": names}, {}, schema=SCHEMA)
    np.testing.assert_array_equal(
        read_hdf5(tmp_path / "a.h5", schema=SCHEMA, made_by="x").datasets["names"].astype(bytes), names
    )


def test_missing_hdf5_names_file_and_stage(tmp_path):
    assert "is missing" in refused_h5(tmp_path / "none.h5")


def test_hdf5_of_another_schema_is_refused_with_both(h5):
    with refused(r"must have the schema 'longtail/other/1', got 'longtail/test/1'", "extract_features"):
        read_hdf5(h5, schema="longtail/other/1", made_by="extract_features")


def test_truncated_hdf5_is_refused_at_every_length(h5):
    content = h5.read_bytes()
    for size in [0, 1, 8, 100, *range(512, len(content), 509), *range(len(content) - 90, len(content))]:
        h5.write_bytes(content[:size])
        refused_h5(h5)


@pytest.mark.parametrize("change", ["value", "attribute", "new", "deleted", "renamed"])
def test_hdf5_changed_by_another_program_is_refused(h5, change):
    with h5py.File(h5, "r+") as file:
        if change == "value":
            file["scores"][0, 0] = 99
        elif change == "attribute":
            file.attrs["tau"] = 0.8
        elif change == "new":
            file["more"] = [1]
        elif change == "deleted":
            del file["label"]
        else:
            file.move("label", "labels")
    refused_h5(h5)


def test_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"not HDF5 at all" * 100)
    refused_h5(tmp_path / "a.h5")


def survey_flips(
    path: Path, content: bytes, positions: list, read: Callable[[], object], expected: object
) -> list[str]:
    """Flip one bit at a time; where reading neither refuses nor returns the same, or takes over 5 s, is named.

    In a child, because a damaged file can crash or hang the HDF5 library itself.
    """
    log = path.with_suffix(".log")

    def work() -> None:
        with open(log, "w", buffering=1) as report:
            for byte, bit in positions:
                signal.alarm(5)
                path.write_bytes(flipped(content, byte, bit))
                try:
                    outcome = "fine" if same(read(), expected) else "returned other content"
                except ArtifactError:
                    outcome = "fine"
                except Exception as error:  # noqa: BLE001 - any other error is a finding
                    outcome = type(error).__name__
                report.write(f"byte {byte} bit {bit}: {outcome}\n")

    status = in_child(work)
    lines = log.read_text().splitlines()
    if os.WIFSIGNALED(status):
        byte, bit = positions[len(lines)]
        lines.append(f"byte {byte} bit {bit}: killed by signal {os.WTERMSIG(status)}")
    return [line for line in lines if not line.endswith(": fine")]


def test_single_bit_flip_in_features_is_refused_or_harmless(tmp_path):
    path = tmp_path / "features_train.h5"
    write_features(path, FEATURES)
    content = path.read_bytes()
    middle = content.index(b"digits") - 64  # text attributes: what the library itself checks least
    everywhere = flips(len(content), 29)
    attributes = [(byte, bit) for byte in range(middle, middle + 160) for bit in (0, 7)]
    assert survey_flips(path, content, everywhere + attributes, lambda: read_features(path), FEATURES) == []


def test_single_bit_flip_in_a_large_chunked_file_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    array = np.random.default_rng(0).normal(size=(2500, 8)).astype(np.float32)
    write_hdf5(path, {"a": array}, {"n": 1}, schema=SCHEMA)
    content, expected = path.read_bytes(), read_hdf5(path, schema=SCHEMA, made_by="x")

    def read() -> object:
        found = read_hdf5(path, schema=SCHEMA, made_by="x")
        assert found.attributes == expected.attributes
        return type("Plain", (), {})() if not np.array_equal(found.datasets["a"], array) else expected

    assert survey_flips(path, content, flips(len(content), 4099), read, expected) == []


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    save_checkpoint(tmp_path / "a.pt", TENSORS, META)
    return tmp_path / "a.pt"


def refused_checkpoint(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_checkpoint(path, "train_backbone")
    assert str(path) in str(caught.value)
    assert (caught.value.path, caught.value.maker) == (str(path), "train_backbone")
    return str(caught.value)


def test_checkpoint_returns_what_was_saved(tmp_path):
    written = save_checkpoint(tmp_path / "a.pt", TENSORS, META)
    tensors, meta, digest = load_checkpoint(tmp_path / "a.pt", "x")
    assert digest == written
    assert meta == META
    assert list(tensors) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_checkpoint_without_tensors_is_allowed(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {}, {})
    assert load_checkpoint(tmp_path / "a.pt", "x")[:2] == ({}, {})


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.uint8, torch.int64]
)
def test_checkpoint_keeps_dtypes_scalars_and_empty_tensors(tmp_path, dtype):
    given = {
        "a": torch.tensor([0, 1, 1]).to(dtype),
        "b": torch.zeros(0, 4, dtype=dtype),
        "c": torch.tensor(1).to(dtype),
        "d": torch.ones(2, 3, dtype=dtype).t(),
    }
    save_checkpoint(tmp_path / "a", given, {})
    tensors, _, _ = load_checkpoint(tmp_path / "a")
    for name, tensor in given.items():
        assert (tensors[name].dtype, tensors[name].shape) == (dtype, tensor.shape)
        assert torch.equal(tensors[name], tensor)


def test_other_programs_read_our_checkpoints_with_safetensors(checkpoint):
    from safetensors.torch import load_file

    found = load_file(checkpoint)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_digest_of_a_checkpoint_depends_on_names_dtypes_shapes_values_and_meta(tmp_path):
    variants = [
        (TENSORS, META),
        ({**TENSORS, "weight": TENSORS["weight"] + 1}, META),
        ({**TENSORS, "weight": TENSORS["weight"].reshape(4, 3)}, META),
        ({**TENSORS, "steps": torch.tensor(5.0)}, META),
        ({name.upper(): tensor for name, tensor in TENSORS.items()}, META),
        (TENSORS, {**META, "name": "resnet20"}),
        ({}, META),
    ]
    digests = [save_checkpoint(tmp_path / "a", tensors, meta) for tensors, meta in variants]
    assert len(set(digests)) == len(variants)


def test_state_that_went_through_a_file_gives_the_same_bytes(tmp_path):
    """A resumed run writes tensors that it loaded, an uninterrupted one those that it made."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.ones(5, 4).cumsum(0)).square().sum().backward()
        optimizer.step()

    def tensors() -> dict[str, torch.Tensor]:
        buffers = {f"momentum.{i}": s["momentum_buffer"] for i, s in enumerate(optimizer.state.values())}
        return {**model.state_dict(), **buffers}

    step()
    save_checkpoint(tmp_path / "straight.pt", tensors(), {"history": [0.5, 1.5], "label": "a" * 3})
    loaded, meta, _ = load_checkpoint(tmp_path / "straight.pt", "x")
    save_checkpoint(tmp_path / "again.pt", OrderedDict(reversed(loaded.items())), meta)
    model.load_state_dict({name: t for name, t in loaded.items() if not name.startswith("momentum")})
    save_checkpoint(tmp_path / "resumed.pt", {**loaded, **model.state_dict()}, meta)
    straight = (tmp_path / "straight.pt").read_bytes()
    assert straight == (tmp_path / "again.pt").read_bytes() == (tmp_path / "resumed.pt").read_bytes()


def test_tied_tensors_are_stored_as_independent_ones(tmp_path):
    shared = torch.arange(6.0)
    save_checkpoint(tmp_path / "tied.pt", {"a": shared, "b": shared}, {})
    save_checkpoint(tmp_path / "apart.pt", {"a": shared, "b": shared.clone()}, {})
    assert (tmp_path / "tied.pt").read_bytes() == (tmp_path / "apart.pt").read_bytes()


def test_missing_checkpoint_names_file_and_stage(tmp_path):
    assert "is missing" in refused_checkpoint(tmp_path / "none.pt")


def test_views_of_one_tensor_are_stored_as_independent_ones(tmp_path):
    whole = torch.arange(6.0)
    save_checkpoint(tmp_path / "views", {"a": whole[:4], "b": whole[2:], "c": whole}, {})
    save_checkpoint(tmp_path / "apart", {"a": whole[:4].clone(), "b": whole[2:].clone(), "c": whole.clone()}, {})
    assert (tmp_path / "views").read_bytes() == (tmp_path / "apart").read_bytes()


def test_loaded_tensors_stay_as_they_are_when_the_file_changes(checkpoint):
    tensors, _, _ = load_checkpoint(checkpoint)
    with open(checkpoint, "r+b") as file:
        file.write(b"\0" * checkpoint.stat().st_size)
    assert torch.equal(tensors["weight"], TENSORS["weight"])


def test_truncated_checkpoint_is_refused_at_every_length(checkpoint):
    content = checkpoint.read_bytes()
    for size in range(len(content)):
        checkpoint.write_bytes(content[:size])
        refused_checkpoint(checkpoint)


def test_every_single_bit_flip_in_a_checkpoint_is_refused(checkpoint):
    content = checkpoint.read_bytes()
    assert len(content) < 1000
    for byte, bit in flips(len(content), 1):
        checkpoint.write_bytes(flipped(content, byte, bit))
        refused_checkpoint(checkpoint)


def test_bytes_appended_to_a_checkpoint_are_refused(checkpoint):
    for more in (b"\0", b" " * 8, checkpoint.read_bytes()):
        changed = checkpoint.with_name("longer")
        changed.write_bytes(checkpoint.read_bytes() + more)
        refused_checkpoint(changed)


def test_random_bytes_in_place_of_a_checkpoint_are_refused(tmp_path):
    stream = np.random.default_rng(0)
    for size in range(0, 300, 3):
        (tmp_path / "a").write_bytes((size % 50).to_bytes(8, "little") + stream.bytes(size))
        refused_checkpoint(tmp_path / "a")


def test_safetensors_file_of_another_program_is_refused(tmp_path):
    from safetensors.torch import save_file

    for metadata in (None, {"format": "pt"}, {"longtail": ""}, {"longtail": "{}"}, {"longtail": f"{'0' * 64} {{}}"}):
        save_file(TENSORS, tmp_path / "a", metadata)
        refused_checkpoint(tmp_path / "a")


class Trap:
    """Unpickling one of these creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_pickles_and_torch_files_are_refused_without_being_executed(tmp_path):
    path, sprung = tmp_path / "a.pt", tmp_path / "sprung"
    pickled = pickle.dumps(Trap(sprung))
    for content in (pickled, torch_bytes({"tensors": TENSORS, "meta": "{}"}), torch_bytes(Trap(sprung))):
        path.write_bytes(content)
        refused_checkpoint(path)
    assert not sprung.exists()
    pickle.loads(pickled)  # noqa: S301 - the trap works, so the refusal means something
    assert sprung.exists()


# Features


def test_features_return_what_was_written(tmp_path):
    write_features(tmp_path / "a.h5", FEATURES)
    found = read_features(tmp_path / "a.h5")
    assert same(found, FEATURES)
    assert not found.foreign
    assert found.features.dtype == np.float32
    assert found.labels.dtype == found.index.dtype == np.int64


def test_features_of_an_empty_part_are_kept(tmp_path):
    empty = Features(np.zeros((0, 5), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64), 3, "d", "s", "b", "{}")
    write_features(tmp_path / "a.h5", empty)
    assert same(read_features(tmp_path / "a.h5"), empty)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_with_their_first_row_and_not_written(tmp_path, bad):
    features = np.zeros((5, 3), np.float32)
    features[2, 1] = features[4, 0] = bad
    content = Features(features, np.arange(5), np.arange(5), 5, "d", "s", "b", "{}")
    with pytest.raises(ArtifactError, match=r"a\.h5 must have finite features, but row 2 is not finite"):
        write_features(tmp_path / "a.h5", content)
    assert list(tmp_path.iterdir()) == []


def foreign(path: Path, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file[name] = array
    return path


@pytest.mark.parametrize("name", ["labels", "label"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_foreign_features_are_read_under_both_names_of_the_labels(tmp_path, name, dtype):
    rows = np.arange(12, dtype=dtype).reshape(4, 3)
    path = foreign(tmp_path / "a.h5", features=rows, **{name: np.array([[0], [2], [2], [1]], np.uint8)})
    found = read_features(path)
    assert found.foreign
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features, rows)
    np.testing.assert_array_equal(found.labels, [0, 2, 2, 1])
    np.testing.assert_array_equal(found.index, np.arange(4))
    assert found.labels.dtype == np.int64
    assert (found.num_classes, found.dataset, found.split_digest, found.backbone_digest) == (3, "", "", "")


def test_foreign_features_with_attributes_of_their_own_are_read(tmp_path):
    path = foreign(tmp_path / "a.h5", features=np.ones((2, 3)), labels=np.array([0, 1]))
    with h5py.File(path, "r+") as file:
        file.attrs["author"] = "someone"
    assert read_features(path).foreign


ROWS, LABELS = np.ones((4, 3)), np.array([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        ({"features": ROWS}, "no dataset `labels`"),
        (
            {"features": ROWS[0], "labels": LABELS},
            r"must have features \(N, D\) and labels \(N,\), got \(3,\) and \(4,\)",
        ),
        ({"features": ROWS, "labels": LABELS[:3]}, r"got \(4, 3\) and \(3,\)"),
        ({"features": ROWS[None], "labels": LABELS}, r"got \(1, 4, 3\)"),
        ({"features": ROWS.astype(int), "labels": LABELS}, "floats and labels that are integers, got int64 and int64"),
        ({"features": ROWS, "labels": LABELS + 0.5}, "got float64 and float64"),
        ({"features": ROWS, "labels": LABELS - 1}, "must have labels of at least 0, got -1"),
        (
            {"features": ROWS * [[1], [np.nan], [1], [np.inf]], "labels": LABELS},
            "must have finite features, but row 1 is not finite",
        ),
        ({"feats": ROWS, "labels": LABELS}, r"a\.h5"),
        ({"features": ROWS, "labels": np.array([b"a"] * 4)}, "floats and labels that are integers"),
    ],
)
def test_misshapen_foreign_features_are_refused(tmp_path, datasets, expected):
    with pytest.raises(ArtifactError, match=expected):
        read_features(foreign(tmp_path / "a.h5", **datasets))


def test_missing_features_name_file_and_stage(tmp_path):
    with refused(r"features_val\.h5 is missing$", "extract_features", missing=True):
        read_features(tmp_path / "features_val.h5")


def test_truncated_features_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    write_features(path, FEATURES)
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with refused(r"a\.h5", "extract_features"):
            read_features(path)


# Heads


WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)
HEADS = [
    LinearHead(WEIGHT),
    LinearHead(WEIGHT, np.arange(3, dtype=np.float32), "unit"),
    LinearHead(WEIGHT, None, "cosine", 30.0),
    ClassMeans(WEIGHT, np.zeros(2)),
]


@pytest.mark.parametrize("network", [None, NetworkSize("resnet8", 78_042, 12_500_000)])
@pytest.mark.parametrize("head", HEADS, ids=["linear", "unit", "cosine", "ncm"])
def test_head_returns_what_was_written(tmp_path, head, network):
    content = HeadFile(
        method="tau",
        head=head,
        split_digest="s",
        backbone_digest="b",
        network=network,
        extra={"curve/tau": np.linspace(0, 2, 21), "mean": np.zeros(2, np.float32)},
        notes={"tau": 0.7, "selected_on": "val", "epochs": 10, "flag": True},
    )
    write_head(tmp_path / "a.h5", content)
    found = read_head(tmp_path / "a.h5", "rebalance@tau")
    assert found.extra.keys() == content.extra.keys()
    for name in content.extra:
        np.testing.assert_array_equal(found.extra[name], content.extra[name])
    for name in ("method", "split_digest", "backbone_digest", "network", "notes"):
        assert getattr(found, name) == getattr(content, name)
    assert type(found.head) is type(head)
    assert same(found.head, head)


def test_head_whose_bias_does_not_fit_is_refused(tmp_path):
    attributes = {"method": "crt", "kind": "linear", "scale": 1.0, "split_digest": "s", "backbone_digest": "b"}
    arrays = {"weight": np.zeros((3, 2), np.float32), "bias": np.zeros(4, np.float32)}
    write_hdf5(tmp_path / "a.h5", arrays, attributes, schema="longtail/head/2")
    with refused(r"a\.h5 is unusable: a head's bias must be \(3,\).*got \(4,\)", "rebalance@crt"):
        read_head(tmp_path / "a.h5", "rebalance@crt")
    write_hdf5(tmp_path / "a.h5", arrays, attributes | {"kind": "quadratic"}, schema="longtail/head/2")
    with refused("kind must be one of linear, cosine, unit, got 'quadratic'", "rebalance@crt"):
        read_head(tmp_path / "a.h5", "rebalance@crt")


def test_head_without_its_parts_is_refused_with_their_names(tmp_path):
    attributes = {"method": "crt", "kind": "linear", "network:macs": 1}
    write_hdf5(tmp_path / "a.h5", {}, attributes, schema="longtail/head/2")
    missing = "split_digest, backbone_digest, scale, weight, network:backbone, network:parameters"
    with refused(rf"a\.h5 lacks {missing}$", "rebalance@crt"):
        read_head(tmp_path / "a.h5", "rebalance@crt")
    write_hdf5(tmp_path / "a.h5", {}, {"kind": "ncm"}, schema="longtail/head/2")
    with refused(r"lacks method, split_digest, backbone_digest, centroids, mean$", "rebalance@ncm"):
        read_head(tmp_path / "a.h5", "rebalance@ncm")


# Tables

COLUMNS = ("part", "index", "label")


def test_csv_keeps_awkward_text(tmp_path):
    names = ["NA", "null", "", "1.0", "007", "a,b", 'say "hi"', " spaced ", "Möwe", "two\nlines", "nan"]
    write_csv(tmp_path / "a.csv", pd.DataFrame({"label": range(len(names)), "name": names}))
    found = read_csv(tmp_path / "a.csv", made_by="x", columns=("label", "name"), text=("name",))
    assert found["name"].tolist() == names
    assert found["label"].tolist() == list(range(len(names)))


def test_csv_has_line_feeds_only_and_no_row_index(tmp_path):
    write_csv(tmp_path / "a.tsv", pd.DataFrame({"a": [1], "b": [0.5]}), sep="\t")
    assert (tmp_path / "a.tsv").read_bytes() == b"a\tb\n1\t0.5\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"part,index\n", b"index,part,label\n", b"\xff\xfe\0", b'part,index,label\n"train,1,2\n', b"a\nb,c,d\n1,2\n"],
)
def test_csv_that_is_damaged_or_has_other_columns_is_refused(tmp_path, content):
    (tmp_path / "split.csv").write_bytes(content)
    with refused(r"split\.csv", "subsample"):
        read_csv(tmp_path / "split.csv", made_by="subsample", columns=COLUMNS, text=("part",))


@pytest.mark.parametrize("last", ["te", "test", "test,", "test,6", "test,6,"])
def test_csv_cut_inside_its_last_row_is_refused(tmp_path, last):
    (tmp_path / "split.csv").write_text(f"part,index,label\ntrain,5,1\n{last}")
    with refused(r"split\.csv", "subsample"):
        read_csv(tmp_path / "split.csv", made_by="subsample", columns=COLUMNS, text=("part",))


def test_missing_tables_name_file_and_stage(tmp_path):
    with refused(r"a\.csv is missing$", "subsample", missing=True):
        read_csv(tmp_path / "a.csv", made_by="subsample", columns=COLUMNS)
    with refused(r"a\.json is missing$", "prepare", missing=True):
        read_json(tmp_path / "a.json", made_by="prepare")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_json_refuses_numbers_that_are_not_finite_and_writes_nothing(tmp_path, bad):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"crt": {"all": bad}})
    assert list(tmp_path.iterdir()) == []


def test_json_is_sorted_readable_and_ends_with_a_line_feed(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": {"ö": 0.25}})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "a": {\n    "ö": 0.25\n  },\n  "b": 1\n}\n'
    assert read_json(tmp_path / "a.json", made_by="x") == {"a": {"ö": 0.25}, "b": 1}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff"])
def test_damaged_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with refused(r"a\.json is damaged", "prepare"):
        read_json(tmp_path / "a.json", made_by="prepare")


# Scratch


def hold(base: Path, ready: int, then: Callable[[], None]) -> None:
    with Scratch(base, {}):
        os.write(ready, b"x")
        then()


def start_holder(base: Path, then: Callable[[], None]) -> int:
    """A child that holds the scratch folder and then does ``then``; returns once it holds it."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        hold(base, sender, then)
        os._exit(0)
    os.close(sender)
    assert os.read(receiver, 1) == b"x"
    os.close(receiver)
    return child


def test_scratch_held_by_another_process_is_refused_with_its_id_and_free_after_its_death(tmp_path):
    child = start_holder(tmp_path / "s", lambda: time.sleep(60))
    try:
        with pytest.raises(ArtifactError, match=rf"s is in use by process {child}, "), Scratch(tmp_path / "s", {}):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with Scratch(tmp_path / "s", {}):
        pass


def test_scratch_of_a_killed_process_is_free_while_its_loader_workers_still_end(tmp_path):
    """Loader workers are forks of the stage, and outlive its kill by seconds."""
    receiver, sender = os.pipe()

    def fork_a_worker() -> None:
        worker = os.fork()
        if worker == 0:
            signal.alarm(60)
            time.sleep(60)
            os._exit(0)
        os.write(sender, str(worker).encode())
        time.sleep(60)

    child = start_holder(tmp_path / "s", fork_a_worker)
    worker = int(os.read(receiver, 20))
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with Scratch(tmp_path / "s", {}):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(receiver)
        os.close(sender)


def test_scratch_is_found_again_by_the_same_identity_only(tmp_path):
    with Scratch(tmp_path, {"a": 1, "b": [2]}) as scratch:
        (scratch.folder / "work").write_text("unfinished")
    with Scratch(tmp_path, {"b": [2], "a": 1}) as scratch:
        assert (scratch.folder / "work").read_text() == "unfinished"
    for other in ({"a": 2, "b": [2]}, {"a": 1}, {"a": 1, "b": ["2"]}):
        with Scratch(tmp_path, other) as scratch:
            assert list(scratch.folder.iterdir()) == []


def test_scratch_clear_removes_its_own_work_and_keeps_that_of_other_identities(tmp_path):
    with Scratch(tmp_path, {"a": 1}) as other:
        (other.folder / "work").write_text("unfinished")
    with Scratch(tmp_path, {"a": 2}) as scratch:
        scratch.clear()
    assert not scratch.folder.exists()
    assert (other.folder / "work").read_text() == "unfinished"


def test_scratch_is_released_by_an_error(tmp_path):
    with pytest.raises(RuntimeError), Scratch(tmp_path, {}):
        raise RuntimeError
    with Scratch(tmp_path, {}):
        pass


def test_code_digest_covers_the_named_packages_only():
    assert code_digest("longtail") == code_digest("longtail")
    assert code_digest("longtail") != code_digest("longtail", "tests")
    assert code_digest("no_such_package") == hashlib.sha256().hexdigest()


# Progress


def report(mode: str, capsys: pytest.CaptureFixture, total: int = 3, done: int = 0) -> str:
    with Progress(total, "reading", mode, done) as progress:
        for _ in range(total - done):
            progress.advance(note="loss 0.5")
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_progress_off_is_silent(capsys):
    assert report("off", capsys) == ""


def test_progress_auto_writes_lines_where_there_is_no_terminal(capsys):
    assert report("auto", capsys) == "reading: 3/3, loss 0.5, 0 s left\n"


def test_progress_bar_shows_label_count_and_note(capsys):
    shown = report("bar", capsys)
    assert "reading" in shown
    assert "3/3" in shown
    assert "loss 0.5" in shown


def test_progress_of_a_resumed_run_counts_what_was_done_before(capsys):
    assert report("lines", capsys, total=5, done=4) == "reading: 5/5, loss 0.5, 0 s left\n"
    assert report("lines", capsys, total=0) == ""


def test_progress_lines_estimate_the_time_left_from_this_run_only(capsys, monkeypatch):
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    Progress(10, "training", "lines", done=4).advance(2)
    assert capsys.readouterr().err == "training: 6/10, 20 s left\n"
