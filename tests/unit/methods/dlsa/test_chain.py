"""The chain: levels one after another, priors, thresholds, and resuming a whole fit."""

from functools import partial

import numpy as np
import pytest
import torch

from longtail.methods.dlsa import DLSA
from longtail.methods.dlsa.chain import fit_chain, unique_heads
from longtail.methods.dlsa.flow_training import train_filter
from longtail.methods.dlsa.head_training import train_head
from longtail.methods.dlsa.losses import (
    class_weights,
    likelihood_loss,
)
from longtail.methods.dlsa.routing import cluster_prior
from longtail.methods.dlsa.settings import Settings
from longtail.methods.dlsa.start import Starts
from longtail.methods.dlsa.stored import save_chain
from longtail.methods.heads.softmax_regression import SoftmaxRegression
from longtail.train.checkpointing import CheckpointStore
from tests.unit.methods.dlsa.training import CLASSES, COUNTS, DATA, FLOW, HEAD, PARTS, Interrupted, interrupt

CHAIN = FLOW | HEAD | {"flow_epochs": 3, "epochs": 3, "warm_start": True, "depth": 2, "flow_select": "held_out"}


def bytes_of(chain, folder):
    save_chain(folder / "chain.safetensors", chain, {})
    return (folder / "chain.safetensors").read_bytes()


def train_chain(store=None, **changes):
    train = DATA["train"]
    start = SoftmaxRegression(l2=1e-3).fit(*train).head_.on_raw()
    return fit_chain(PARTS, Starts(start), Settings(**CHAIN | changes), 0, store or CheckpointStore(), "off")


FLOWS, HEADS = (
    "longtail.methods.dlsa.flow_training.cluster_class_counts",
    "longtail.methods.dlsa.head_training.macro_accuracy",
)


@pytest.mark.parametrize(("target", "calls"), [(FLOWS, 2), (FLOWS, 3 + 2), (HEADS, 3), (HEADS, 4 + 3), (HEADS, 8 + 1)])
def test_interrupted_chain_ends_in_the_same_bits(target, calls, store, tmp_path, monkeypatch):
    whole = train_chain()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt(patch, target, calls)
        train_chain(store())
    resumed = train_chain(store())
    assert bytes_of(resumed, tmp_path) == bytes_of(whole, tmp_path)
    for one, other in zip(whole.levels, resumed.levels, strict=True):
        np.testing.assert_equal(other.history.columns, one.history.columns)
        np.testing.assert_equal(other.history.log_likelihood, one.history.log_likelihood)
    for one, other in zip(unique_heads(whole.heads), unique_heads(resumed.heads), strict=True):
        np.testing.assert_equal(other.history, one.history)


def test_interrupted_fit_ends_in_the_same_scores(store, monkeypatch):
    model = partial(DLSA, depth=2, flow_epochs=3, epochs=3, eval_every=1)
    whole = model().fit(*DATA["train"])
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt(patch, FLOWS, 5)
        model().fit(*DATA["train"], store=store())
    resumed = model().fit(*DATA["train"], store=store())
    with monkeypatch.context() as patch:
        patch.setattr("longtail.methods.dlsa.flow_training.likelihood_loss", lambda *a: pytest.fail("a step was taken"))
        patch.setattr(
            "longtail.methods.dlsa.head_training.balanced_softmax_loss", lambda *a: pytest.fail("a step was taken")
        )
        again = model().fit(*DATA["train"], store=store())
    X = DATA["test"][0]
    for other in (resumed, again):
        assert other.scores(X).tobytes() == whole.scores(X).tobytes()
        assert other.route(X).tobytes() == whole.route(X).tobytes()
        assert other.log_likelihood(X).tobytes() == whole.log_likelihood(X).tobytes()


def test_two_runs_in_one_folder_stay_apart_by_their_names(store):
    model = partial(DLSA, flow_epochs=2, epochs=3)
    X = DATA["test"][0]
    alone = [model(depth=depth).fit(*DATA["train"]).scores(X) for depth in (0, 1)]
    for depth, name in ((0, "control"), (1, "dlsa")):
        together = model(depth=depth).fit(*DATA["train"], store=store(), name=name).scores(X)
        assert together.tobytes() == alone[depth].tobytes()


def priors_of(monkeypatch, **changes):
    """The prior that each head's loss was given, by the routes it serves."""
    priors = {}

    def spy(head, train, counts, *rest):
        priors[tuple(head.routes)] = counts
        return train_head(head, train, counts, *rest)

    monkeypatch.setattr("longtail.methods.dlsa.chain.train_head", spy)
    chain = train_chain(epochs=1, **changes)
    return priors, chain.routing(PARTS["train"].x).route


def test_stage_prior_is_that_of_the_own_rows_and_the_regular_head_takes_all(monkeypatch):
    priors, route = priors_of(monkeypatch, loss_counts="stage")
    y = DATA["train"][1]
    for level in (1, 2):
        np.testing.assert_array_equal(priors[(level,)], np.bincount(y[route == level], minlength=CLASSES))
    np.testing.assert_array_equal(priors[(3,)], COUNTS)


@pytest.mark.parametrize("changes", [{"loss_counts": "all"}, {"loss_counts": "stage", "heads": "shared"}])
def test_other_heads_take_the_counts_of_all_rows(changes, monkeypatch):
    priors, _ = priors_of(monkeypatch, **changes)
    assert len(priors) == (1 if "heads" in changes else 3)
    for counts in priors.values():
        np.testing.assert_array_equal(counts, COUNTS)


def test_every_level_has_centres_and_weights_of_its_own():
    one, other = (level.filter for level in train_chain(epochs=0, flow_epochs=1, flow_lr=1e-9).levels)
    for name in ("centers", "flow.layers.0.net.0.weight"):
        assert not torch.isclose(one.state_dict()[name], other.state_dict()[name]).any()


def test_next_level_trains_on_the_rows_that_are_left(monkeypatch):
    seen = []

    def spy(parts, *rest):
        seen.append({part: len(rows) for part, rows in parts.items()})
        return train_filter(parts, *rest)

    monkeypatch.setattr("longtail.methods.dlsa.chain.train_filter", spy)
    chain = train_chain(epochs=0)
    left = {part: int((chain.routing(rows.x).route > 1).sum()) for part, rows in PARTS.items()}
    assert seen == [{part: len(rows) for part, rows in PARTS.items()}, left]


@pytest.mark.parametrize("low", [-100.0, np.nextafter(np.float32(-100.0), np.float32(0))])
def test_neighboring_float32_densities_are_parted(low, monkeypatch):
    low = torch.tensor(low, dtype=torch.float32)
    high = torch.nextafter(low, torch.tensor(0.0))

    def measure(model, X):
        return torch.where(X[:, 0] > limit, high, low), torch.zeros(len(X), dtype=torch.int64)

    monkeypatch.setattr("longtail.methods.dlsa.filter.FlowFilter.measure", measure)
    x = PARTS["train"].x
    limit = x[:, 0].quantile(0.7)
    chain = train_chain(depth=1, epochs=0)
    np.testing.assert_array_equal(chain.routing(x).route == 1, x[:, 0] > limit)


@pytest.mark.parametrize("kind", ["frequency", "balanced"])
def test_cluster_prior_is_of_all_training_rows(kind):
    chain = train_chain(epochs=0, cluster_prior=kind)
    for level in chain.levels:
        cluster = level.filter.measure(PARTS["train"].x)[1].numpy()
        expected = cluster_prior(cluster, DATA["train"][1], 16, CLASSES, balanced=kind == "balanced")
        np.testing.assert_array_equal(level.prior, expected)


def test_class_weights_are_of_the_rows_that_a_level_trains_on(monkeypatch):
    seen = []

    def spy(log_density, weights):
        seen.append(set(weights.double().tolist()))
        return likelihood_loss(log_density, weights)

    monkeypatch.setattr("longtail.methods.dlsa.flow_training.likelihood_loss", spy)
    chain = train_chain(epochs=0, flow_epochs=1)
    left = torch.from_numpy(chain.routing(PARTS["train"].x).route) > 1
    for counts, step in ((torch.from_numpy(COUNTS), seen[0]), (torch.bincount(PARTS["train"].y[left]), seen[-1])):
        assert step <= set(class_weights(counts, 1.0).float().double().tolist())


def test_heads_are_warm_only_where_asked():
    start = SoftmaxRegression(l2=1e-3).fit(*DATA["train"]).head_
    warm, cold = (train_chain(epochs=0, warm_start=warm) for warm in (True, False))
    for route in (1, 2, 3):
        x = PARTS["train"].x
        first = warm.heads[route].head.first
        with torch.no_grad():
            scores = first(x.sub(warm.moments[0]).div(warm.moments[1]))
        np.testing.assert_allclose(scores, start.scores(DATA["train"][0]), atol=1e-4)
        assert cold.heads[route].head.first.weight.abs().max() <= 16**-0.5
