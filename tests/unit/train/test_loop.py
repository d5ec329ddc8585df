"""The loop itself, with a task of one number that walks down a slope."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from longtail.core.errors import TrainingError
from longtail.train.checkpointing import CheckpointStore
from longtail.train.loop import EpochReport, Outcome, run


class Walk:
    """Halves its position in each of three steps per epoch. ``scores`` rate the epochs, ``broken`` names a bad one."""

    steps = 3

    def __init__(self, scores: list[float] | None = None, broken: int = -1, ends_after: int = 99) -> None:
        self.position, self.velocity = torch.tensor(64.0), torch.tensor(0.0)
        self.scores, self.broken, self.ends_after = scores, broken, ends_after
        self.stopped, self.started, self.ended = False, [], []

    def start_epoch(self, epoch: int) -> None:
        self.started.append(epoch)

    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        self.velocity = 0.5 * self.velocity + self.position
        loss = self.position.clone()
        self.position = self.position - 0.5 * self.velocity
        return {"loss": loss, "step": torch.tensor(step)}

    def has_failed(self) -> Tensor:
        return torch.tensor(len(self.ended) + 1 == self.broken)

    def end_epoch(self, epoch: int, means: Mapping[str, float]) -> EpochReport:
        self.ended.append(epoch)
        self.stopped = epoch >= self.ends_after
        score = None if self.scores is None else (self.scores[epoch - 1],)
        return EpochReport({"position": float(self.position)}, score, "the score")

    def advise(self) -> str:
        return "walk more slowly"

    def weights(self) -> dict[str, Tensor]:
        return {"position": self.position}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        self.position = weights["position"]

    def state(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        return {"position": self.position, "velocity": self.velocity}, {"ended": self.ended, "stopped": self.stopped}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, object]) -> None:
        self.position, self.velocity = tensors["position"], tensors["velocity"]
        self.ended, self.stopped = list(values["ended"]), values["stopped"]


def walk(task: Walk, folder: Path | None = None, every: int = 1, epochs: int = 5, **changes: object) -> Outcome:
    store = CheckpointStore(folder, every)
    return run(task, epochs=epochs, label="walk", part="walk", store=store, progress="off", **changes)


def test_history_holds_the_means_of_the_logs_and_the_columns_of_the_task():
    task = Walk()
    outcome = walk(task)
    assert [list(row) for row in outcome.history] == [["epoch", "loss", "step", "position"]] * 5
    assert outcome.columns()["epoch"] == [1, 2, 3, 4, 5] and outcome.columns()["step"] == [1.0] * 5
    assert outcome.history[0]["loss"] == pytest.approx((64 + 32 + 0) / 3)
    assert (outcome.epochs, outcome.chosen_epoch, outcome.rule, outcome.computed) == (5, 5, "", 5)
    assert task.started == [0, 1, 2, 3, 4] and task.ended == [1, 2, 3, 4, 5]
    assert float(task.position) == outcome.history[-1]["position"], "without scores the last epoch stays"


def test_best_epoch_is_kept_and_the_first_one_on_ties():
    task = Walk(scores=[1, 3, 2, 3, 0])
    outcome = walk(task)
    assert (outcome.epochs, outcome.chosen_epoch, outcome.rule) == (5, 2, "the score")
    assert float(task.position) == outcome.history[1]["position"] != outcome.history[4]["position"]


@pytest.mark.parametrize(("start", "chosen"), [(9.0, 0), (0.5, 2), (3.0, 0)])
def test_start_counts_as_epoch_0(start, chosen):
    task = Walk(scores=[1, 3, 2, 3, 0])
    outcome = walk(task, start=lambda: EpochReport({}, (start,), "the start"))
    assert outcome.chosen_epoch == chosen and outcome.rule == ("the score" if chosen else "the start")
    assert (float(task.position) == 64.0) is (chosen == 0)


def test_task_may_stop_early():
    outcome = walk(Walk(ends_after=3))
    assert (outcome.epochs, len(outcome.history), outcome.chosen_epoch) == (3, 3, 3)


class Interrupted(Walk):
    """Ends its process within an epoch, after the checkpoint of the epoch before."""

    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        if (epoch, step) == (3, 1):
            raise KeyboardInterrupt
        return super().step(epoch, step)


@pytest.mark.parametrize("scores", [None, [1, 3, 2, 3, 0], [5, 3, 2, 3, 9]], ids=["last", "early", "late"])
@pytest.mark.parametrize(("every", "computed"), [(1, 2), (2, 3), (9, 5)])
def test_resumed_run_ends_as_an_uninterrupted_one(tmp_path, scores, every, computed):
    expected = Walk(scores)
    whole = walk(expected, tmp_path / "whole", every)
    with pytest.raises(KeyboardInterrupt):
        walk(Interrupted(scores), tmp_path / "cut", every)
    task = Walk(scores)
    outcome = walk(task, tmp_path / "cut", every)
    assert outcome == whole and outcome.computed == computed
    assert torch.equal(task.position, expected.position) and torch.equal(task.velocity, expected.velocity)


def test_finished_part_is_read_back_and_not_computed_again(tmp_path):
    first = Walk([1, 3, 2, 3, 0])
    whole = walk(first, tmp_path, every=3)
    task = Walk([1, 3, 2, 3, 0])
    outcome = walk(task, tmp_path, every=3)
    assert outcome == whole and outcome.computed == 0 and task.started == []
    assert torch.equal(task.position, first.position)


def test_part_that_stopped_early_is_not_continued(tmp_path):
    whole = walk(Walk(ends_after=3), tmp_path, every=2)
    assert walk(Walk(ends_after=3), tmp_path, every=2) == whole


def test_loss_that_is_not_finite_is_refused_with_the_advice_of_the_task_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(TrainingError) as caught:
        walk(Walk(broken=3), tmp_path)
    assert str(caught.value).startswith("walk: loss or weights are not finite in epoch 3 of 5 (loss ")
    assert str(caught.value).endswith("; walk more slowly")
    found = CheckpointStore(tmp_path).load("walk")
    assert found is not None and found[1]["epoch"] == 2
    assert walk(Walk(), tmp_path).computed == 3


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert walk(Walk()) == walk(Walk())
    assert not list(tmp_path.iterdir())
