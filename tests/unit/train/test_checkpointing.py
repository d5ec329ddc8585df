"""Checkpoints of unfinished training: what is kept, when, and what a damaged one leads to."""

from pathlib import Path

import pytest
import torch

from longtail.train.checkpointing import CheckpointStore, add_prefix, strip_prefix

TENSORS = {"weights": torch.arange(400.0).view(20, 20), "number": torch.tensor(3)}


def kept(folder: Path) -> CheckpointStore:
    store = CheckpointStore(folder)
    store.save("flow-3", TENSORS, {"epoch": 2, "score": [0.5, 1e-17]})
    return store


def test_part_comes_back_with_its_bits(tmp_path):
    tensors, meta = kept(tmp_path).load("flow-3")
    assert meta == {"epoch": 2, "score": [0.5, 1e-17]}
    assert tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["flow-3.safetensors"]


def test_parts_do_not_meet(tmp_path):
    store = kept(tmp_path)
    assert store.load("flow-4") is None
    store.save("flow-4", {}, {"epoch": 7})
    assert (store.load("flow-3")[1]["epoch"], store.load("flow-4")[1]["epoch"]) == (2, 7)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_last_epoch_is_always_due(tmp_path, every):
    store = CheckpointStore(tmp_path, every)
    due = [epoch for epoch in range(1, 8) if store.is_due(epoch, last=epoch == 7)]
    assert due == sorted({*range(every, 8, every), 7})
    assert not CheckpointStore(None, every).is_due(7, last=True)


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-200],
    "cut in its header": lambda content: content[:50],
    "changed at the end": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "changed in its header": lambda content: content.replace(b"epoch", b"epocs"),
    "something else": lambda content: b"x" * len(content),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint_starts_its_part_over_and_says_so(tmp_path, caplog, damage):
    """The run goes on by itself, so the message names the file and asks for nothing."""
    caplog.set_level("INFO", logger="longtail")
    store, path = kept(tmp_path), tmp_path / "flow-3.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert store.load("flow-3") is None
    (message,) = caplog.messages
    assert message.startswith(f"starting over: checkpoint {path} cannot be read (is damaged")
    assert "dvc" not in message
    store.save("flow-3", TENSORS, {"epoch": 1})
    assert store.load("flow-3")[1] == {"epoch": 1}


def test_missing_checkpoint_is_no_event(tmp_path, caplog):
    caplog.set_level("INFO", logger="longtail")
    assert CheckpointStore(tmp_path).load("network") is None and CheckpointStore().load("network") is None
    assert not caplog.messages


def test_prefixes_are_undone():
    both = add_prefix("task.", {"a": TENSORS["number"]}) | add_prefix("best.", TENSORS)
    assert strip_prefix("task.", both) == {"a": TENSORS["number"]}
    assert strip_prefix("best.", both).keys() == TENSORS.keys()


@pytest.mark.parametrize("part", ["dlsa flow 1 of 2", "../flow", "Flow", "", "flow/1"])
def test_name_of_a_part_must_be_safe_as_a_file_name(tmp_path, part):
    with pytest.raises(AssertionError, match="not the name of a part"):
        CheckpointStore(tmp_path).save(part, TENSORS, {})


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CheckpointStore().save("network", TENSORS, {})
    assert CheckpointStore().load("network") is None
    assert list(tmp_path.iterdir()) == []
