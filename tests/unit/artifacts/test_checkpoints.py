"""Checkpoints: what was saved comes back, damage is refused, and no pickle is executed."""

import io
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from longtail.artifacts.checkpoints import load_checkpoint, read_meta, save_checkpoint
from longtail.core.errors import ArtifactError
from tests.imports import ROOT
from tests.unit.artifacts.helpers import META, TENSORS, flipped, flips


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


def test_meta_alone_is_read_without_torch(checkpoint):
    assert read_meta(checkpoint) == META
    code = f"import sys; from longtail.artifacts.checkpoints import read_meta; read_meta({str(checkpoint)!r})"
    command = [sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_meta_of_anything_else_is_empty(tmp_path):
    assert read_meta(tmp_path / "missing") == read_meta(tmp_path) == {}
    (tmp_path / "a.pt").write_bytes(b"no checkpoint" * 50)
    assert read_meta(tmp_path / "a.pt") == {}
    for metadata in (None, {"longtail": "digest"}, {"longtail": "digest {"}, {"longtail": "digest [1]"}):
        save_file(TENSORS, tmp_path / "b.safetensors", metadata)
        assert read_meta(tmp_path / "b.safetensors") == {}


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
