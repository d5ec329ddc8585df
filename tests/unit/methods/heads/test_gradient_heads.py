"""What cRT and LWS share: their training."""

import logging

import numpy as np
import pytest

from longtail.core.errors import ConfigError, TrainingError
from longtail.methods.heads import CRT, LWS
from longtail.methods.heads.gradient.task import RowsTask
from longtail.train.checkpointing import CheckpointStore
from tests.unit.methods.heads.helpers import RELEASED, X, Y


def released(kind, **arguments):
    """The head as its authors train it."""
    return kind(**RELEASED | ({"trained_on": "fitted"} if kind is LWS else {}) | arguments)


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_history_has_one_entry_per_epoch_and_the_last_rate_is_zero(kind, tail):
    rows, y, rows_test, y_test, _ = tail
    plain = released(kind, epochs=5, batch_size=64).fit(rows, y)
    assert set(plain.history_) == {"epoch", "lr", "loss"}
    assert plain.history_["epoch"] == [1, 2, 3, 4, 5]
    assert plain.history_["lr"] == pytest.approx([0.180902, 0.130902, 0.069098, 0.019098, 0], abs=1e-6)
    assert plain.history_["lr"][-1] == 0.0
    assert plain.history_["loss"][-1] < plain.history_["loss"][0]
    with_val = released(kind, epochs=5, batch_size=64).fit(rows, y, rows_test, y_test)
    assert with_val.history_["val_accuracy"][-1] == pytest.approx(with_val.score(rows_test, y_test))
    assert with_val.weight_.tobytes() == plain.weight_.tobytes()


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_best_val_keeps_the_first_best_epoch(kind, tail):
    rows, y, rows_test, y_test, _ = tail
    many = y_test < 3  # balanced training gets worse on the head classes, so the best epoch is an early one
    fitted = released(kind, epochs=6, batch_size=64, select="best_val").fit(rows, y, rows_test[many], y_test[many])
    accuracies = fitted.history_["val_accuracy"]
    assert fitted.selected_epoch_ == 1 + int(np.argmax(accuracies))
    assert fitted.score(rows_test[many], y_test[many]) == pytest.approx(max(accuracies))
    assert max(accuracies) > accuracies[-1]
    assert released(kind, epochs=6, batch_size=64).fit(rows, y, rows_test, y_test).selected_epoch_ == 6


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_batch_size_above_the_rows_becomes_their_number_with_a_message(kind, caplog):
    rows, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    with caplog.at_level(logging.INFO, logger="longtail.methods.heads"):
        clipped = released(kind, epochs=2, batch_size=512).fit(rows, y)
    assert "batch_size 512 is more than the 30 rows; 30 is used" in caplog.text
    assert clipped.weight_.tobytes() == released(kind, epochs=2, batch_size=30).fit(rows, y).weight_.tobytes()


@pytest.mark.parametrize(("kind", "name"), [(CRT, "crt"), (LWS, "lws")])
def test_divergence_is_an_error_that_names_method_and_epoch(kind, name):
    rows, y = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
    with pytest.raises(
        TrainingError, match=rf"{name}: loss or weights are not finite in epoch 1 of 5 .*; lower {name}\.lr"
    ):
        released(kind, epochs=5, batch_size=10, lr=1e38).fit(rows, y)


@pytest.mark.parametrize("kind", [CRT, LWS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_keeps_the_dtype_of_the_features(kind, dtype, tail):
    rows, y, *_ = tail
    fitted = released(kind, epochs=2, batch_size=64).fit(rows.astype(dtype), y)
    assert fitted.weight_.dtype == fitted.bias_.dtype == fitted.scores(rows.astype(dtype)).dtype == dtype


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("kind", [CRT, LWS])
@pytest.mark.parametrize("select", ["last", "best_val"])
def test_interrupted_training_ends_in_the_same_bits(kind, select, tail, tmp_path, monkeypatch):
    rows, y, rows_test, y_test, _ = tail
    many = y_test < 3

    def fit(store=None):
        model = released(kind, epochs=5, batch_size=64, select=select)
        return model.fit(rows, y, rows_test[many], y_test[many], store=store)

    def interrupted(task, epoch):
        if epoch == 3:
            raise Interrupted
        return start_epoch(task, epoch)

    whole, start_epoch = fit(), RowsTask.start_epoch
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(RowsTask, "start_epoch", interrupted)
        fit(CheckpointStore(tmp_path))
    started = []
    monkeypatch.setattr(RowsTask, "start_epoch", lambda task, epoch: (started.append(epoch), start_epoch(task, epoch)))
    resumed = fit(CheckpointStore(tmp_path))
    assert started == [3, 4]
    assert resumed.weight_.tobytes() == whole.weight_.tobytes()
    assert resumed.bias_.tobytes() == whole.bias_.tobytes()
    assert (resumed.history_, resumed.selected_epoch_) == (whole.history_, whole.selected_epoch_)


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_features_are_left_untouched(kind, tail):
    rows, y, *_ = tail
    before = rows.tobytes()
    released(kind, epochs=2, batch_size=64).fit(rows, y)
    assert rows.tobytes() == before


@pytest.mark.parametrize(("kind", "name"), [(CRT, "crt"), (LWS, "lws")])
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be above 0, got -1"),
        ({"momentum": float("nan")}, "momentum must be a finite number, got nan"),
        ({"select": "best"}, "select must be one of auto, last, best_val, got best"),
        ({"select": "best_val"}, "select must be last without X_val and y_val, got best_val"),
    ],
)
def test_training_values_out_of_range_are_refused(kind, name, arguments, reason):
    with pytest.raises(ConfigError, match=rf"^{name}\.{reason}$"):
        kind(**arguments).fit(X, Y)


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_unknown_device_is_refused(kind):
    with pytest.raises(ConfigError, match="'abacus' is not a torch device"):
        kind(device="abacus").fit(X, Y)


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_finished_head_is_not_computed_again(kind, tail, tmp_path, monkeypatch):
    rows, y, *_ = tail
    first = released(kind, epochs=2, batch_size=64).fit(rows, y, store=CheckpointStore(tmp_path))
    assert [path.stem for path in tmp_path.iterdir()] == [kind.__name__.lower()]
    monkeypatch.setattr(RowsTask, "step", lambda *a: pytest.fail("a step was taken"))
    again = released(kind, epochs=2, batch_size=64).fit(rows, y, store=CheckpointStore(tmp_path))
    assert again.weight_.tobytes() == first.weight_.tobytes()
    assert again.history_ == first.history_


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_a_single_epoch_trains_at_the_base_rate(kind, tail):
    rows, y, *_ = tail
    head = released(kind, epochs=1, batch_size=64).fit(rows, y)
    unmoved = released(kind, epochs=1, batch_size=64, lr=1e-30, weight_decay=0.0).fit(rows, y)
    assert head.history_["lr"] == [0.2]
    assert np.abs(head.weight_ - unmoved.weight_).max() > 1e-2


@pytest.mark.parametrize(("kind", "name"), [(CRT, "crt"), (LWS, "lws")])
def test_infinite_loss_of_one_step_is_an_error_although_the_weights_are_finite(kind, name, tail, monkeypatch):
    original = RowsTask.step

    def step(self, epoch, number):
        logs = original(self, epoch, number)
        return {"loss": logs["loss"] + np.inf} if (epoch, number) == (1, 1) else logs

    monkeypatch.setattr(RowsTask, "step", step)
    rows, y, *_ = tail
    with pytest.raises(TrainingError, match=rf"{name}: .*not finite in epoch 2 of 3 .*lower {name}\.lr"):
        released(kind, epochs=3, batch_size=64).fit(rows, y)
