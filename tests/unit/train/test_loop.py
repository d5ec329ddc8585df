"""The training loop alone, with tasks of a few numbers."""

import logging
import math
from functools import partial

import pytest
import torch

from longtail.artifacts.checkpoints import load_checkpoint
from longtail.core.errors import TrainingError
from longtail.core.progress import Progress
from longtail.train.checkpointing import CheckpointStore
from longtail.train.loop import EpochReport, run
from tests.host_reads import no_host_reads


class Counting:
    """Adds 1 to its weight in every step; the loss is the weight before the step. ``scores`` are by epoch."""

    steps = 3

    def __init__(self, scores=(), stop_after=None, name="val"):
        self.weight = torch.zeros((), dtype=torch.float64)
        self.scores, self.stop_after, self.name = scores, stop_after, name
        self.stopped, self.failed_at, self.interrupt_at, self.taken = False, None, None, []
        self.seen = 0.0

    def start_epoch(self, epoch):
        self.epoch = epoch

    def step(self, epoch, step):
        assert epoch == self.epoch
        if (epoch, step) == self.interrupt_at:
            raise KeyboardInterrupt
        self.taken.append((epoch, step))
        loss = self.weight.clone()
        self.weight += 1
        return {"loss": loss, "double": 2 * loss}

    def has_failed(self):
        return torch.tensor(self.epoch == self.failed_at)

    def end_epoch(self, epoch, means):
        self.seen += means["loss"]
        self.stopped = epoch == self.stop_after
        score = self.scores[epoch - 1] if self.scores else None
        return EpochReport({"seen": self.seen}, score, self.name)

    def advise(self):
        return "count slower"

    def weights(self):
        return {"weight": self.weight}

    def set_weights(self, weights):
        self.weight.copy_(weights["weight"])

    def state(self):
        return {"weight": self.weight}, {"seen": self.seen, "stopped": self.stopped}

    def load_state(self, tensors, values):
        self.set_weights(tensors)
        self.seen, self.stopped = values["seen"], values["stopped"]


def train(task, epochs=5, store=None, **options):
    options = {"label": "count", "part": "count", "progress": "off"} | options
    return run(task, epochs=epochs, store=store or CheckpointStore(), **options)


@pytest.fixture
def store(tmp_path):
    return partial(CheckpointStore, tmp_path)


def test_history_holds_the_means_and_the_columns_of_every_epoch():
    task = Counting()
    outcome = train(task, epochs=2)
    assert outcome.history == [
        {"epoch": 1, "loss": 1.0, "double": 2.0, "seen": 1.0},
        {"epoch": 2, "loss": 4.0, "double": 8.0, "seen": 5.0},
    ]
    assert outcome.columns() == {"epoch": [1, 2], "loss": [1.0, 4.0], "double": [2.0, 8.0], "seen": [1.0, 5.0]}
    assert task.taken == [(epoch, step) for epoch in range(2) for step in range(3)]
    assert (outcome.epochs, outcome.chosen_epoch, outcome.rule, outcome.computed) == (2, 2, "", 2)


@pytest.mark.parametrize(
    ("scores", "start", "kept"),
    [
        ([0.1, 0.3, 0.2, 0.3], None, 2),
        ([0.4, 0.4, 0.4, 0.4], None, 1),
        ([None, 0.1, None, 0.0], None, 2),
        ([0.4, 0.3, 0.2, 0.1], 0.4, 0),
        ([0.4, 0.3, 0.2, 0.5], 0.4, 4),
    ],
)
def test_first_of_the_best_epochs_is_kept_and_the_start_may_count(scores, start, kept):
    task = Counting([None if score is None else (score,) for score in scores])
    begin = None if start is None else lambda: EpochReport({}, (start,), "val")
    outcome = train(task, epochs=4, start=begin)
    assert (outcome.chosen_epoch, outcome.rule, outcome.epochs) == (kept, "val", 4)
    assert task.weight == 3 * kept
    assert len(outcome.history) == 4


def test_scores_are_compared_element_by_element():
    assert train(Counting([(1.0, 5.0), (2.0, 0.0), (2.0, -1.0), (2.0, 0.0)]), epochs=4).chosen_epoch == 2


def test_without_a_score_the_last_epoch_stays():
    task = Counting([None] * 4)
    assert train(task, epochs=4).chosen_epoch == 4
    assert task.weight == 12


def test_task_may_stop_early():
    task = Counting(stop_after=2)
    outcome = train(task)
    assert (outcome.epochs, outcome.chosen_epoch, len(outcome.history), task.weight) == (2, 2, 2, 6)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("at", [(0, 2), (2, 0), (3, 1), (4, 2)])
def test_resumed_run_gives_the_outcome_of_an_uninterrupted_one(store, caplog, every, at):
    scores = [(0.1,), (0.5,), (0.2,), (0.5,), (0.4,)]
    uninterrupted = Counting(scores)
    expected = train(uninterrupted)
    cut = Counting(scores)
    cut.interrupt_at = at
    with pytest.raises(KeyboardInterrupt):
        train(cut, store=store(every))
    task = Counting(scores)
    with caplog.at_level(logging.INFO, logger="longtail"):
        outcome = train(task, store=store(every))
    done = at[0] - at[0] % every
    assert (f"count: resuming after epoch {done}" in caplog.messages) == (done > 0)
    assert task.taken == [(epoch, step) for epoch in range(done, 5) for step in range(3)]
    assert outcome == expected and outcome.computed == 5 - done
    assert torch.equal(task.weight, uninterrupted.weight) and task.seen == uninterrupted.seen


@pytest.mark.parametrize("stop_after", [None, 4])
def test_finished_run_is_read_back_without_a_step(store, stop_after):
    expected = train(Counting([(0.3,), (0.9,), (0.2,), (0.1,), (0.0,)], stop_after), store=store(3))
    task = Counting([], stop_after)
    task.step = task.end_epoch = lambda *a: pytest.fail("it was computed again")
    outcome = train(task, store=store(3), start=lambda: pytest.fail("the start was scored again"))
    assert outcome == expected and outcome.computed == 0
    assert task.weight == 6


def test_parts_of_one_store_stay_apart(store, tmp_path):
    one, other = train(Counting(), store=store(), part="flow-1"), train(Counting(), epochs=2, store=store(), part="b_2")
    assert {path.stem for path in tmp_path.iterdir()} == {"flow-1", "b_2"}
    assert train(Counting(), store=store(), part="flow-1") == one
    assert train(Counting(), epochs=2, store=store(), part="b_2") == other


def test_label_is_no_file_name(store, tmp_path):
    train(Counting(), store=store(), label="flow 1 of 2: a/b", part="flow-1")
    assert [path.stem for path in tmp_path.iterdir()] == ["flow-1"]


def test_failure_gives_the_advice_of_the_task_and_keeps_the_checkpoint(store, tmp_path):
    task = Counting()
    task.failed_at = 3
    with pytest.raises(TrainingError, match=r"count: .*not finite in epoch 4 of 5 .*; count slower"):
        train(task, store=store())
    (path,) = tmp_path.iterdir()
    assert load_checkpoint(path)[1]["epoch"] == 3


@pytest.mark.parametrize("value", [math.inf, math.nan, 3e38])
def test_mean_loss_that_is_not_finite_is_a_failure_although_the_task_notices_none(value):
    task = Counting()
    task.step = lambda epoch, step: {"loss": torch.tensor(value)}  # 3e38 alone is finite, its sum is not
    with pytest.raises(TrainingError, match="not finite in epoch 1 of 5"):
        train(task)


def test_steps_read_nothing_on_the_host(monkeypatch):
    """Only the end of an epoch may wait for the device."""
    task, guards = Counting(), []
    start_epoch, has_failed = task.start_epoch, task.has_failed

    def guarded(epoch):
        start_epoch(epoch)
        guards.append(no_host_reads())
        guards[-1].__enter__()

    def read():
        guards[-1].__exit__(None, None, None)
        return has_failed()

    monkeypatch.setattr(task, "start_epoch", guarded)
    monkeypatch.setattr(task, "has_failed", read)
    train(task, epochs=2)
    assert len(guards) == 2


def test_progress_counts_every_step_and_goes_on_where_a_resumed_run_does(store, monkeypatch):
    made = []

    class Spy(Progress):
        def __init__(self, total, label, mode, done=0):
            super().__init__(total, label, mode, done)
            made.append([total, label, done, []])

        def advance(self, units=1, note=""):
            made[-1][3].append(note)

    monkeypatch.setattr("longtail.train.loop.Progress", Spy)
    cut = Counting()
    cut.interrupt_at = (2, 1)
    with pytest.raises(KeyboardInterrupt):
        train(cut, store=store())
    train(Counting(), epochs=3, store=store())
    assert made[0][:3] == [15, "count", 0]
    assert made[0][3] == ["", "", "epoch 1, loss 1.0000"] + 2 * ["epoch 1, loss 1.0000"] + [
        "epoch 2, loss 4.0000",
        "epoch 2, loss 4.0000",
    ]
    assert made[1] == [9, "count", 6, ["", "", "epoch 3, loss 7.0000"]]
