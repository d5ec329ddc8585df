"""Training of a flow filter: its losses, the epoch kept, and resuming."""

import logging
from functools import partial

import numpy as np
import pytest
import torch

from longtail.core.errors import TrainingError
from longtail.methods.dlsa.filter import create_filter
from longtail.methods.dlsa.flow_training import THIRDS, Rows, batch_sizes, can_train, frequency_groups, train_filter
from longtail.methods.dlsa.losses import (
    balance_loss,
    class_weights,
    likelihood_loss,
    purity_loss,
)
from longtail.methods.dlsa.mixture import mixture_log_density
from longtail.methods.dlsa.pairs import PairSampler
from longtail.methods.dlsa.settings import Settings
from longtail.train.checkpointing import CheckpointStore
from longtail.train.optimizer_step import OptimizerStep
from tests.unit.methods.dlsa.training import (
    CLASSES,
    COUNTS,
    FLOW,
    PARTS,
    Interrupted,
    as_rows,
    features,
    interrupt,
    same_bits,
    train_flow,
)


@torch.no_grad()
def imbalance_of_clusters(model, rows):
    """KL of the class-balanced mean posterior from uniform."""
    posterior = model.components(rows.x).softmax(dim=-1).double()
    weights = 1 / torch.bincount(rows.y).double()[rows.y]
    mean = weights @ posterior / weights.sum()
    return (mean * mean.log()).sum().item() + np.log(mean.numel())


@pytest.mark.parametrize("seed", [0, 1])
def test_balance_weight_evens_out_the_clusters(seed):
    only_train = {"train": PARTS["train"]}
    found = []
    for weight in (0.0, 1.0, 10.0):
        model, *_ = train_flow(only_train, seed, balance_weight=weight, flow_epochs=20, flow_select="last")
        found.append(imbalance_of_clusters(model, PARTS["train"]))
    assert found[0] > 1.3 * found[1] > 1.3 * 1.3 * found[2] > 0


def test_training_raises_the_likelihood_of_the_training_rows():
    *_, history = train_flow(flow_epochs=20, flow_select="last")
    means = np.array(history.log_likelihood["train"]).mean(axis=1)
    assert means[-1] > means[0] + 0.5


def test_one_epoch_of_one_batch_is_one_step_down_the_three_losses(monkeypatch):
    drawn = []
    draw = PairSampler.draw

    def spy(*arguments):
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(PairSampler, "draw", spy)
    rows = Rows(PARTS["train"].x.double(), PARTS["train"].y)
    weights = {"likelihood_weight": 3.0, "balance_weight": 0.5, "purity_weight": 2.0}
    setting = {"flow_batch_size": 10_000, "flow_epochs": 1, "flow_select": "last", "flow_lr": 0.3}
    trained, _, _, history = train_flow({"train": rows}, **setting, **weights)

    ((positive, negative),) = drawn
    model = create_filter(rows.x, Settings(**FLOW), 0).train()
    plus, minus = (model.components(rows.x[half]) for half in (positive, negative))
    class_weight = class_weights(torch.from_numpy(COUNTS), 1.0)[rows.y[positive]]
    parts = {
        "likelihood": likelihood_loss(mixture_log_density(plus), class_weight),
        "purity": purity_loss(plus, minus),
        "balance": balance_loss(plus, torch.zeros(16), 1)[0],
    }
    total = sum(weights[f"{name}_weight"] * parts[name] for name in parts)
    for name, value in (parts | {"loss": total}).items():
        assert history.columns[name] == pytest.approx([value.item()]), name
    gradients = torch.autograd.grad(total, list(model.flow.parameters()))
    for after, before, gradient in zip(trained.flow.parameters(), model.flow.parameters(), gradients, strict=True):
        torch.testing.assert_close(after, before - 0.3 * gradient, atol=1e-9, rtol=1e-9)


def test_history_holds_an_entry_for_each_epoch_and_part():
    model, epoch, rule, history = train_flow(flow_select="last")
    assert (epoch, rule) == (6, "last")
    assert history.columns["epoch"] == [1, 2, 3, 4, 5, 6]
    names = {"loss", "likelihood", "purity", "balance", "pure_clusters", "largest_cluster"}
    assert names <= history.columns.keys()
    losses = {name: np.array(history.columns[name]) for name in names}
    total = losses["likelihood"] + 0.02 * losses["purity"] + losses["balance"]
    np.testing.assert_allclose(losses["loss"], total, rtol=1e-5)
    for part, rows in PARTS.items():
        log_density, _ = model.measure(rows.x)
        last = history.log_likelihood[part][-1]
        expected = [log_density[rows.y == c].double().mean().item() for c in range(CLASSES)]
        np.testing.assert_allclose(last, expected, rtol=1e-5)


def by_group(history):
    """(3, E) held-out log-likelihoods of the classes with many, medium and few rows, each class weighing the same."""
    val = np.array(history.log_likelihood["val"])
    return np.array([val[:, frequency_groups(COUNTS) == group].mean(axis=1) for group in range(THIRDS)])


def test_held_out_rows_end_the_training_before_the_tail_is_memorized():
    parts = as_rows(features(32))
    setting = {"q": 2.0, "likelihood_weight": 8.0, "flow_lr": 0.05, "flow_epochs": 30}
    kept, epoch, rule, history = train_flow(parts, **setting, flow_select="held_out", patience=4)
    memorized, *_ = train_flow(parts, **setting, flow_select="last")
    ran = len(history.columns["epoch"])
    assert rule == "held_out"
    assert ran < 30
    groups = by_group(history)
    assert epoch == np.argmax(groups.mean(axis=0)) + 1
    assert (ran - 1 - groups.argmax(axis=1)).max() == 4, "it stopped at another epoch than the patience says"

    few = frequency_groups(COUNTS) == THIRDS - 1

    def tail(model, part):
        log_density, _ = model.measure(parts[part].x)
        return log_density[torch.from_numpy(few)[parts[part].y]].mean().item()

    assert tail(kept, "val") > tail(memorized, "val") + 5
    assert tail(kept, "train") - tail(kept, "val") < 0.5 * (tail(memorized, "train") - tail(memorized, "val"))


def test_kept_epoch_is_the_model_that_comes_back():
    kept, epoch, _, history = train_flow(flow_select="held_out", flow_epochs=8, patience=8)
    log_density, _ = kept.measure(PARTS["val"].x)
    means = [log_density[PARTS["val"].y == c].double().mean().item() for c in range(CLASSES)]
    np.testing.assert_allclose(means, history.log_likelihood["val"][epoch - 1], rtol=1e-6)


def test_without_held_out_rows_the_last_epoch_stays():
    only_train = {"train": PARTS["train"]}
    model, epoch, rule, _ = train_flow(only_train, flow_select="held_out")
    last, *_ = train_flow(only_train, flow_select="last")
    assert (epoch, rule) == (6, "last")
    assert same_bits(model, last)


def test_purity_keeps_the_first_epoch_with_the_most_pure_clusters():
    _, epoch, rule, history = train_flow(flow_select="purity", clusters=6, flow_epochs=12)
    pure = history.columns["pure_clusters"]
    assert max(pure) > min(pure)
    assert (epoch, rule) == (int(np.argmax(pure)) + 1, "purity")


def test_purity_falls_back_to_held_out_rows_where_no_cluster_is_pure(monkeypatch):
    monkeypatch.setattr("longtail.methods.dlsa.flow_training.MIN_SIZE", 10_000)
    setting = {"flow_select": "purity", "flow_epochs": 8}
    _, epoch, rule, history = train_flow(**setting)
    assert max(history.columns["pure_clusters"]) == 0
    assert (epoch, rule) == (int(np.argmax(by_group(history).mean(axis=0))) + 1, "held_out")
    _, epoch, rule, _ = train_flow({"train": PARTS["train"]}, **setting)
    assert (epoch, rule) == (8, "last")


def test_pure_clusters_are_counted_by_size_and_share(monkeypatch):
    """More than 10 rows and more than 0.7 of one class; an epoch counts while the largest cluster has below 5000."""
    y = torch.tensor([0] * 11 + [0] * 10 + [0] * 7 + [1] * 3 + [0] * 8 + [1] * 3)
    cluster = torch.tensor([0] * 11 + [1] * 10 + [2] * 10 + [3] * 11)
    x = torch.randn(len(y), 16, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(
        "longtail.methods.dlsa.filter.FlowFilter.measure", lambda model, X: (torch.zeros(len(X)), cluster.clone())
    )
    _, epoch, rule, history = train_flow({"train": Rows(x, y)}, clusters=4, flow_epochs=2, flow_select="purity")
    assert history.columns["pure_clusters"] == [2, 2]  # clusters 0 (11 of 11) and 3 (8 of 11)
    assert history.columns["largest_cluster"] == [11, 11]
    assert (epoch, rule) == (1, "purity")
    monkeypatch.setattr("longtail.methods.dlsa.flow_training.MAX_SIZE", 11)
    _, epoch, rule, _ = train_flow({"train": Rows(x, y)}, clusters=4, flow_epochs=2, flow_select="purity")
    assert (epoch, rule) == (2, "last")


def test_no_step_is_taken_from_a_loss_that_is_not_finite_on():
    weight = torch.nn.Parameter(torch.ones(3))
    update = OptimizerStep(torch.optim.SGD([weight], lr=0.5, fused=True), torch.device("cpu"))
    for factor, expected, failed in ((1.0, 0.5, False), (np.nan, 0.5, True), (1.0, 0.5, True)):
        update.backward((factor * weight).sum())
        update.apply()
        assert weight.tolist() == [expected] * 3
        assert bool(update.has_failed()) is failed


NAMED = r"lower dlsa\.flow_lr, bound dlsa\.log_scale_limit, or set dlsa\.standardize: true"


def test_loss_that_is_not_finite_names_what_to_change():
    parts = {name: Rows(100 * rows.x, rows.y) for name, rows in PARTS.items()}
    with pytest.raises(
        TrainingError, match=rf"flow: loss or weights are not finite in epoch 1 of 6 \(loss .*\); {NAMED}"
    ):
        train_flow(parts, standardize=False, log_scale_limit=0.0, flow_lr=1e8)


def test_measured_row_whose_density_is_not_finite_names_its_part():
    rows = PARTS["val"]
    parts = PARTS | {"val": Rows(torch.cat([rows.x[:-1], torch.full((1, 16), 1e30)]), rows.y)}
    with pytest.raises(TrainingError, match=f"flow: the log-likelihood of a val row is not finite.*1; {NAMED}"):
        train_flow(parts, standardize=False, log_scale_limit=0.0, flow_lr=1e-3)


def test_same_seed_gives_the_same_bits_and_another_seed_does_not():
    one, *first = train_flow(flow_select="held_out")
    again, *second = train_flow(flow_select="held_out")
    other, *_ = train_flow(flow_select="held_out", seed=1)
    assert same_bits(one, again)
    assert first[:2] == second[:2]
    assert not same_bits(one, other)


def test_measured_parts_do_not_influence_the_weights():
    with_others, *_ = train_flow(flow_select="last")
    alone, *_ = train_flow({"train": PARTS["train"]}, flow_select="last")
    assert same_bits(with_others, alone)


def test_centres_and_standardization_stay_as_they_were_drawn():
    start, *_ = train_flow(flow_epochs=1, flow_select="last", flow_lr=1e-12)
    trained, *_ = train_flow(flow_epochs=6, flow_select="last")
    for name in ("centers", "offset", "scale"):
        assert torch.equal(getattr(start, name), getattr(trained, name))
    assert not torch.equal(start.flow.layers[0].net[0].weight, trained.flow.layers[0].net[0].weight)


@pytest.mark.parametrize(("labels", "possible"), [([0, 0, 0], False), ([0], False), ([4, 7], True), ([], False)])
def test_a_flow_needs_two_classes(labels, possible):
    assert can_train(Rows(torch.zeros(len(labels), 2), torch.tensor(labels, dtype=torch.int64))) is possible


def test_a_flow_can_be_trained_on_two_rows():
    rows = Rows(torch.tensor([[0.0, 1.0], [2.0, -1.0]]), torch.tensor([0, 1]))
    counts, store = np.ones(2, int), CheckpointStore()
    found = train_filter({"train": rows}, counts, Settings(**FLOW), 0, "flow", "flow", store, "off")
    assert torch.isfinite(found.filter.measure(rows.x)[0]).all()


def test_checkpoints_are_due_at_their_interval_and_at_the_end(store):
    due = [(epoch, store(every=3).is_due(epoch, last=epoch == 7)) for epoch in range(1, 8)]
    assert [epoch for epoch, now in due if now] == [3, 6, 7]
    assert not CheckpointStore().is_due(3, last=True)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("select", ["held_out", "purity", "last"])
def test_interrupted_flow_ends_in_the_same_bits(select, every, store, monkeypatch):
    train = partial(train_flow, flow_select=select, patience=4, flow_epochs=7)
    whole, *expected = train()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt(patch, "longtail.methods.dlsa.flow_training.cluster_class_counts", 4)
        train(store=store(every))
    with monkeypatch.context() as patch:
        steps = []
        original = torch.optim.SGD.step
        patch.setattr(torch.optim.SGD, "step", lambda self, *a: (steps.append(1), original(self, *a))[1])
        resumed, *found = train(store=store(every))
    done = 3 if every == 1 else 2
    per_epoch = len(batch_sizes(len(PARTS["train"]), 64))
    assert len(steps) == (len(expected[2].columns["epoch"]) - done) * per_epoch > 0
    assert same_bits(whole, resumed)
    assert found == expected


def test_finished_flow_is_not_computed_again(store, monkeypatch):
    whole, *expected = train_flow(store=store())
    monkeypatch.setattr(
        "longtail.methods.dlsa.flow_training.likelihood_loss", lambda *a: pytest.fail("a step was taken")
    )
    again, *found = train_flow(store=store())
    assert same_bits(whole, again)
    assert found == expected


@pytest.mark.parametrize("damage", [lambda b: b"garbage", lambda b: b[:-9], lambda b: b[:500] + b"x" + b[501:]])
def test_damaged_checkpoint_starts_over(damage, store, tmp_path, caplog):
    whole, *_ = train_flow(store=store())
    path = tmp_path / "train_dlsa" / "run" / "flow.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.INFO, logger="longtail.train"):
        again, *_ = train_flow(store=store())
    assert "starting over" in caplog.text
    assert same_bits(whole, again)


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_flow(flow_epochs=2)
    assert list(tmp_path.iterdir()) == []
