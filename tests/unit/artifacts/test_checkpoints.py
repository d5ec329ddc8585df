"""Checkpoints: what was saved comes back, damage is refused, and no pickle is executed."""

import hashlib
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from longtail.artifacts.checkpoints import load_checkpoint, save_checkpoint
from longtail.core.errors import ArtifactError
from tests.unit.artifacts.helpers import META, TENSORS, flipped, flips


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    save_checkpoint(tmp_path / "a.pt", TENSORS, META)
    return tmp_path / "a.pt"


def refused_checkpoint(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_checkpoint(path, "train_backbone")
    assert str(path) in str(caught.value)
    assert "train_backbone" in str(caught.value)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int64])
def test_checkpoint_keeps_dtypes_and_empty_tensors(tmp_path, dtype):
    save_checkpoint(tmp_path / "a.pt", {"a": torch.ones(3, dtype=dtype), "b": torch.zeros(0, 4, dtype=dtype)}, {})
    tensors, _, _ = load_checkpoint(tmp_path / "a.pt", "x")
    assert tensors["a"].dtype == dtype
    assert tensors["b"].shape == (0, 4)


def test_torch_itself_reads_our_checkpoints_without_pickles(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    assert torch.equal(state["tensors"]["weight"], TENSORS["weight"])


def test_checkpoint_is_a_valid_zip_archive(checkpoint):
    with zipfile.ZipFile(checkpoint) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"longtail-sha256:")


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


def test_truncated_checkpoint_is_refused_at_every_length(checkpoint):
    content = checkpoint.read_bytes()
    for size in [0, 1, 3, 4, *range(5, len(content), 37), *range(len(content) - 120, len(content))]:
        checkpoint.write_bytes(content[:size])
        refused_checkpoint(checkpoint)


def test_single_bit_flip_in_a_checkpoint_is_refused_everywhere(checkpoint):
    content = checkpoint.read_bytes()
    for byte, bit in [*flips(len(content), 13), *flips(100, 1)]:
        checkpoint.write_bytes(flipped(content, byte, bit))
        refused_checkpoint(checkpoint)


def test_bytes_appended_to_a_checkpoint_are_refused(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes() + b"\0")
    refused_checkpoint(checkpoint)


class Trap:
    """Unpickling one of these creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_pickle_in_place_of_a_checkpoint_is_refused_without_being_executed(tmp_path):
    path, sprung = tmp_path / "a.pt", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(sprung)))
    assert "pickle" in refused_checkpoint(path)
    assert not sprung.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 - the trap works, so the refusal means something
    assert sprung.exists()


def torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_plain_torch_save_file_is_refused_without_being_executed(tmp_path):
    path, sprung = tmp_path / "a.pt", tmp_path / "sprung"
    for content in ({"tensors": TENSORS, "meta": "{}"}, Trap(sprung)):
        path.write_bytes(torch_bytes(content))
        refused_checkpoint(path)
    assert not sprung.exists()


def test_pickle_with_a_valid_digest_is_not_executed_either(tmp_path):
    path, sprung = tmp_path / "a.pt", tmp_path / "sprung"
    archive = torch_bytes(Trap(sprung))
    body = archive[:-2] + (len(b"longtail-sha256:") + 64).to_bytes(2, "little")
    path.write_bytes(body + b"longtail-sha256:" + hashlib.sha256(body).hexdigest().encode())
    with pytest.raises((ArtifactError, pickle.UnpicklingError)):
        load_checkpoint(path, "train_backbone")
    assert not sprung.exists()
