"""cRT and LWS resume from a checkpoint, bit by bit."""

import logging

import numpy as np
import pytest

from longtail.core.errors import TrainingError
from longtail.methods.heads.crt import CRT
from longtail.methods.heads.gradient.task import RowsTask
from longtail.methods.heads.lws import LWS
from longtail.train.checkpointing import CheckpointStore

EPOCHS, BATCH = 5, 16
both = pytest.mark.parametrize("kind", [CRT, LWS])


def rows(seed: int, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(count) ** 2 % 3 + (np.arange(count) % 7 == 0)
    return (np.random.default_rng(seed).normal(size=(count, 6)) + y[:, None]).astype(np.float32), y


def fit(kind, store=None, select="best_val"):
    X, y = rows(0)
    X_val, y_val = rows(1, 30)
    return kind(epochs=EPOCHS, batch_size=BATCH, select=select).fit(X, y, X_val, y_val, store=store)


def learned(head) -> list:
    arrays = [head.weight_, head.bias_] + ([head.scales_] if isinstance(head, LWS) else [])
    return [array.tobytes() for array in arrays] + [head.selected_epoch_, head.history_]


def interrupt(monkeypatch: pytest.MonkeyPatch, at: tuple[int, int]) -> None:
    original = RowsTask.step

    def step(self, epoch, number):
        if (epoch, number) == at:
            raise KeyboardInterrupt
        return original(self, epoch, number)

    monkeypatch.setattr(RowsTask, "step", step)


@both
@pytest.mark.parametrize("select", ["last", "best_val"])
@pytest.mark.parametrize(("epoch", "every"), [(0, 1), (1, 1), (3, 2), (4, 1)])
def test_interrupted_head_ends_in_the_same_bits(tmp_path, monkeypatch, caplog, kind, select, epoch, every):
    expected = learned(fit(kind, select=select))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, (epoch, 2))
        fit(kind, CheckpointStore(tmp_path, every), select)
    with caplog.at_level(logging.INFO, logger="longtail"):
        assert learned(fit(kind, CheckpointStore(tmp_path, every), select)) == expected
    done, name = epoch - epoch % every, kind.__name__.lower()
    assert (f"{name}: resuming after epoch {done}" in caplog.messages) == (done > 0)
    assert [path.stem for path in tmp_path.iterdir()] == [name]


@both
def test_finished_head_is_not_computed_again(tmp_path, monkeypatch, kind):
    expected = learned(fit(kind, CheckpointStore(tmp_path)))
    monkeypatch.setattr(RowsTask, "step", lambda *a: pytest.fail("a step was taken"))
    assert learned(fit(kind, CheckpointStore(tmp_path))) == expected


@both
def test_a_single_epoch_trains_at_the_base_rate(kind):
    X, y = rows(0)
    head = kind(epochs=1, batch_size=BATCH).fit(X, y)
    assert head.history_["lr"] == [0.2]
    unmoved = kind(epochs=1, batch_size=BATCH, lr=1e-30, weight_decay=0.0).fit(X, y)
    assert np.abs(head.weight_ - unmoved.weight_).max() > 1e-3


@both
def test_infinite_loss_of_one_step_is_an_error_although_the_weights_are_finite(monkeypatch, kind):
    original = RowsTask.step

    def step(self, epoch, number):
        logs = original(self, epoch, number)
        return {"loss": logs["loss"] + np.inf} if (epoch, number) == (2, 1) else logs

    monkeypatch.setattr(RowsTask, "step", step)
    with pytest.raises(TrainingError, match=r"not finite in epoch 3 of 5 .*lower (crt|lws)\.lr"):
        fit(kind)
