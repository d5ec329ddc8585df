import logging

import pytest
import torch

from longtail.train.checkpointing import CheckpointStore, add_prefix, strip_prefix

STATE = {"weight": torch.arange(3.0)}, {"epoch": 2, "history": [{"loss": float("nan")}]}


def test_part_comes_back_as_it_was_saved(tmp_path):
    CheckpointStore(tmp_path).save("flow-1", *STATE)
    tensors, meta = CheckpointStore(tmp_path).load("flow-1")
    assert torch.equal(tensors["weight"], STATE[0]["weight"])
    assert repr(meta) == repr(STATE[1])
    assert CheckpointStore(tmp_path).load("flow-2") is None


def test_checkpoints_are_due_at_their_interval_and_at_the_end(tmp_path):
    store = CheckpointStore(tmp_path, every=3)
    assert [epoch for epoch in range(1, 8) if store.is_due(epoch, last=epoch == 7)] == [3, 6, 7]
    assert not CheckpointStore().is_due(3, last=True)


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CheckpointStore().save("flow-1", *STATE)
    assert CheckpointStore().load("flow-1") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda b: b"garbage", lambda b: b[:-9], lambda b: b[:-5] + b"x" + b[-4:]])
def test_damaged_checkpoint_is_named_with_the_reason_and_without_a_stage(tmp_path, caplog, damage):
    CheckpointStore(tmp_path).save("flow-1", *STATE)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.INFO, logger="longtail"):
        assert CheckpointStore(tmp_path).load("flow-1") is None
    assert caplog.messages[0].startswith(f"starting over: checkpoint {path} cannot be read (is damaged")
    assert "dvc" not in caplog.text and tmp_path.parent.name + " " not in caplog.text


@pytest.mark.parametrize("part", ["dlsa flow 1 of 2", "../flow", "Flow", "", "flow/1"])
def test_name_of_a_part_must_be_safe_as_a_file_name(tmp_path, part):
    with pytest.raises(AssertionError, match="not the name of a part"):
        CheckpointStore(tmp_path).save(part, *STATE)


def test_prefixes_are_added_and_stripped():
    a, b = torch.zeros(1), torch.ones(1)
    tensors = add_prefix("model.", {"a": a}) | add_prefix("best.", {"a": b})
    assert tensors == {"model.a": a, "best.a": b}
    assert strip_prefix("best.", tensors) == {"a": b}
