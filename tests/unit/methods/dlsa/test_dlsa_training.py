import logging
from functools import partial

import numpy as np
import pytest
import torch

from longtail.core.errors import TrainingError
from longtail.methods.dlsa import DLSA
from longtail.methods.dlsa.chain import fit_chain, unique_heads
from longtail.methods.dlsa.classifiers import CosineBranch, RouteHead
from longtail.methods.dlsa.filter import create_filter
from longtail.methods.dlsa.flow_training import THIRDS, Rows, batch_sizes, can_train, frequency_groups, train_filter
from longtail.methods.dlsa.head_training import RoutedRows, macro_accuracy, train_head
from longtail.methods.dlsa.losses import (
    balance_loss,
    balanced_softmax_loss,
    class_weights,
    likelihood_loss,
    log_prior,
    purity_loss,
)
from longtail.methods.dlsa.mixture import mixture_log_density
from longtail.methods.dlsa.pairs import PairSampler
from longtail.methods.dlsa.routing import cluster_prior
from longtail.methods.dlsa.settings import Settings
from longtail.methods.dlsa.stored import save_chain
from longtail.methods.heads.base import fit_linear_head
from longtail.train.checkpointing import CheckpointStore
from longtail.train.optimizer_step import OptimizerStep
from tests.synthetic import hierarchical_features

CLASSES = 8


def features(width, **options):
    sizes = {"classes": CLASSES, "imbalance": 20, "largest": 100, "superclasses": 3, "modes": 2}
    return hierarchical_features(0, width=width, **sizes | {"held_out": 10, "test": 10} | options)


def as_rows(data):
    return {name: Rows(torch.from_numpy(x), torch.from_numpy(y)) for name, (x, y) in data.items()}


DATA = features(16)
PARTS = as_rows(DATA)
COUNTS = np.bincount(DATA["train"][1])
FLOW = {
    "standardize": True,
    "flow_batch_size": 64,
    "flow_epochs": 6,
    "log_scale_limit": 5.0,
    "clusters": 16,
    "center_std": 0.5,
    "q": 1.0,
    "likelihood_weight": 1.0,
}


def train_flow(parts=PARTS, seed=0, store=None, **changes):
    settings = Settings(**FLOW | changes)
    found = train_filter(parts, COUNTS, settings, seed, "flow", "flow", store or CheckpointStore(), "off")
    return found.filter, found.epoch, found.rule, found.history


def same_bits(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def interrupt(monkeypatch, target, calls):
    """Let the function named ``target`` raise at its call number ``calls``, counted from 1."""
    module, _, name = target.rpartition(".")
    original = getattr(__import__(module, fromlist=[name]), name)
    seen = []

    def raising(*arguments, **options):
        seen.append(target)
        if len(seen) == calls:
            raise Interrupted
        return original(*arguments, **options)

    monkeypatch.setattr(target, raising)


# ------------------------------------------------------------------------------------------------------------ flows


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


# ----------------------------------------------------------------------------------------------------------- resume


@pytest.fixture
def store(tmp_path):
    (tmp_path / "train_dlsa" / "run").mkdir(parents=True)
    return partial(CheckpointStore, tmp_path / "train_dlsa" / "run")


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


# ------------------------------------------------------------------------------------------------------- classifiers


def test_cosine_branch_has_the_worked_values():
    branch = CosineBranch(2, 2).double()
    branch.weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    logits = branch(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    np.testing.assert_allclose(logits.detach(), [[8.0, 32 / 3]], rtol=1e-12)
    assert branch.bias is None


def test_cosine_branch_gives_zero_and_a_finite_gradient_for_a_zero_row():
    branch = CosineBranch(3, 2)
    x = torch.zeros(1, 3, requires_grad=True)
    logits = branch(x)
    logits.sum().backward()
    assert logits.tolist() == [[0.0, 0.0]]
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(branch.weight.grad).all()


def test_cosine_logits_of_two_branches_stay_below_32():
    head = RouteHead(3, 4, [1], 1, Settings(classifier="cosine"))
    x = 1e4 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    logits = head(x, x, torch.rand(50, 4))
    assert 16 < logits.abs().max() <= 32


def random_head(width, routes, depth, **changes):
    head = RouteHead(width, 4, routes, depth, Settings(**changes)).double()
    head.initialize(0, None, None, "random")
    return head


def inputs(rows=6, width=3, classes=4, seed=0):
    stream = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(rows, width, generator=stream, dtype=torch.float64) for _ in range(2))
    return x, z, torch.rand(rows, classes, generator=stream, dtype=torch.float64)


@pytest.mark.parametrize(
    ("z_kind", "aided_width", "regular_width"), [("features", 7, 3), ("latent", 7, 3), ("none", 4, 0)]
)
def test_route_head_adds_two_branches_and_only_aided_ones_see_the_prior(z_kind, aided_width, regular_width):
    x, z, r = inputs()
    for route, width in ((1, aided_width), (2, regular_width)):
        head = random_head(3, [route], 1, z=z_kind)
        expected = x @ head.first.weight.T + head.first.bias
        seen = torch.cat([*([] if z_kind == "none" else [z]), *([r] if route == 1 else [])], dim=1) if width else None
        assert (str(route) in head.second) == (seen is not None)
        if seen is not None:
            branch = head.second[str(route)]
            assert branch.in_features == width
            expected = expected + seen @ branch.weight.T + branch.bias
        torch.testing.assert_close(head(x, z, r), expected)


def test_correction_of_one_route_does_not_touch_the_others():
    head = random_head(3, [1, 2, 3], 2)
    x, z, r = inputs()
    route = torch.tensor([1, 2, 3, 1, 2, 3])
    before = head(x, z, r, route)
    before[route == 1].sum().backward()
    assert head.second["1"].weight.grad.abs().max() > 0
    for other in ("2", "3"):
        assert (head.second[other].weight.grad == 0).all()
        assert (head.second[other].bias.grad == 0).all()
    with torch.no_grad():
        head.second["2"].weight += 1.0
        after = head(x, z, r, route)
    assert torch.equal(after[route != 2], before[route != 2])
    assert not torch.isclose(after[route == 2], before[route == 2]).any()


def test_shared_head_is_one_head_for_each_route_with_a_common_first_branch():
    shared = random_head(3, [1, 2], 1)
    x, z, r = inputs()
    for route in (1, 2):
        alone = RouteHead(3, 4, [route], 1, Settings()).double()
        alone.load_state_dict({name: shared.state_dict()[name] for name in alone.state_dict()})
        torch.testing.assert_close(shared(x, z, r, torch.full((6,), route)), alone(x, z, r))


# ---------------------------------------------------------------------------------------------------- head training


def routed(data, route=None, depth=1):
    """Rows with random cluster priors; all of route 1 unless told otherwise."""
    X, y = data
    stream = np.random.default_rng(0)
    prior = stream.dirichlet(np.ones(CLASSES), 5).astype(np.float32)
    prior = torch.from_numpy(np.concatenate([prior, np.zeros((1, CLASSES), np.float32)]))
    route = np.ones(len(y), np.int64) if route is None else route
    rows = np.where(route <= depth, stream.integers(0, 5, len(y)), 5)
    return RoutedRows(*map(torch.from_numpy, (X, y, route)), prior, torch.from_numpy(rows), None)


TRAIN, JUDGES = routed(DATA["train"]), {"val": routed(DATA["val"])}
HEAD = {"epochs": 6, "eval_every": 1, "batch_size": 64, "lr": 0.02, "second_branch": "zero"}


def train_classifier(train=TRAIN, judges=JUDGES, store=None, seed=0, routes=(1,), counts=COUNTS, **changes):
    settings = Settings(**HEAD | changes)
    head = RouteHead(16, CLASSES, list(routes), 1, settings)
    head.initialize(0, None, None, settings.second_branch)
    start = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    found = train_head(head, train, counts, judges, settings, seed, "head", "head", store or CheckpointStore(), "off")
    return head, start, *found


def script(monkeypatch, *scores):
    """Let the judged accuracies be these, one after another."""
    left = list(scores)
    monkeypatch.setattr("longtail.methods.dlsa.head_training.macro_accuracy", lambda *a: left.pop(0))
    return left


@pytest.mark.parametrize(
    ("every", "scores", "kept"),
    [
        (1, [0.5, 0.4, 0.5, 0.6, 0.6, 0.2], 3),
        (1, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], 5),
        (1, [0.9, 0.9, 0.1, 0.9, 0.1, 0.1], 0),
        (2, [0.1, 0.2, 0.3, 0.3], 4),
        (5, [0.0, 0.0], 0),
        (9, [0.1, 0.2], 5),
    ],
)
def test_first_of_the_best_epochs_is_kept_the_start_included(every, scores, kept, monkeypatch):
    left = script(monkeypatch, *scores)
    head, start, epoch, selected_on, history = train_classifier(eval_every=every, epochs=5)
    assert (epoch, selected_on, left) == (kept, "val", [])
    expected = start
    if kept:
        monkeypatch.setattr("longtail.methods.dlsa.head_training.macro_accuracy", lambda *a: 0.0)
        expected = train_classifier(epochs=kept, select_on="last")[0].state_dict()
    assert all(torch.equal(head.state_dict()[name], expected[name]) for name in expected)
    measured = [e for e in range(1, 6) if e % every == 0 or e == 5]
    accuracy = dict(zip(history["epoch"], history["val_accuracy"], strict=True))
    assert [e for e in accuracy if np.isfinite(accuracy[e])] == measured
    assert [accuracy[e] for e in measured] == scores[1:]


def test_select_on_last_keeps_the_last_epoch():
    head, start, epoch, selected_on, history = train_classifier(select_on="last")
    judged, *_ = train_classifier(judges={}, select_on="val")
    assert (epoch, selected_on) == (6, "last")
    assert same_bits(head, judged)
    assert history["loss"][-1] < history["loss"][0]
    assert not torch.equal(head.state_dict()["first.weight"], start["first.weight"])


def test_a_part_without_rows_of_the_route_chooses_nothing():
    elsewhere = {"val": routed(DATA["val"], route=np.full(len(DATA["val"][1]), 2))}
    _, _, epoch, selected_on, _ = train_classifier(judges=elsewhere)
    assert (epoch, selected_on) == (6, "last")


@pytest.mark.parametrize("select", ["val", "test"])
def test_the_part_named_chooses(select):
    parts = {"val": JUDGES["val"], "test": routed(DATA["test"])}
    *_, selected_on, history = train_classifier(judges=parts, select_on=select)
    assert selected_on == select
    assert f"{select}_accuracy" in history


def test_macro_accuracy_is_the_mean_over_the_classes_present():
    class Fixed:
        def __call__(self, x, z, r, route):
            return torch.eye(CLASSES)[x[:, 0].long()]

    guesses, y = np.array([0, 0, 1, 2, 2, 5]), np.array([0, 0, 0, 2, 2, 7])
    rows = routed((guesses[:, None].astype(np.float32), y))
    assert macro_accuracy(Fixed(), rows, torch.arange(6)) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert macro_accuracy(Fixed(), rows, torch.tensor([0, 2])) == pytest.approx(0.5)


@pytest.mark.parametrize("loss", ["bsm", "ce"])
def test_one_epoch_of_one_batch_is_one_step_down_the_loss(loss):
    head, start, *_ = train_classifier(judges={}, epochs=1, batch_size=10_000, lr=0.1, loss=loss)
    x, y, r = TRAIN.x, TRAIN.y, TRAIN.prior[TRAIN.prior_row]
    logits = x @ start["first.weight"].T + start["first.bias"]
    shifted = logits + (torch.from_numpy(COUNTS).log().float() if loss == "bsm" else 0.0)
    gradient = (shifted.softmax(dim=1) - torch.eye(CLASSES)[y]) / len(y)
    expected = {
        "first.weight": start["first.weight"] - 0.1 * gradient.T @ x,
        "first.bias": start["first.bias"] - 0.1 * gradient.sum(dim=0),
        "second.1.weight": -0.1 * gradient.T @ torch.cat([x, r], dim=1),
        "second.1.bias": -0.1 * gradient.sum(dim=0),
    }
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)


def test_only_rows_of_its_routes_train_a_head():
    route = np.where(np.arange(len(DATA["train"][1])) % 2, 1, 2)
    X, y = DATA["train"]
    mixed, *_ = train_classifier(routed((X, y), route), {}, routes=(2,), depth=1)
    other = X.copy()
    other[route == 1] += 100
    again, *_ = train_classifier(routed((other, y), route), {}, routes=(2,), depth=1)
    assert same_bits(mixed, again)


def test_training_a_shared_head_on_one_route_leaves_the_other_corrections():
    head, start, *_ = train_classifier(judges={}, routes=(1, 2), second_branch="random")
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, start[name]) == name.startswith("second.2"), name


def seen_by_the_loss(monkeypatch):
    """The labels of every batch and the priors that the classifier's loss is given."""
    seen = []

    def spy(logits, labels, prior):
        seen.append((labels, prior))
        return balanced_softmax_loss(logits, labels, prior)

    monkeypatch.setattr("longtail.methods.dlsa.head_training.balanced_softmax_loss", spy)
    return seen


def test_shuffle_draws_every_row_once_an_epoch_in_another_order(monkeypatch):
    seen = seen_by_the_loss(monkeypatch)
    train_classifier(epochs=2, judges={})
    rows = len(DATA["train"][1])
    labels = torch.cat([labels for labels, _ in seen]).reshape(2, rows)
    for epoch in labels:
        np.testing.assert_array_equal(torch.bincount(epoch), COUNTS)
    assert not torch.equal(labels[0], labels[1])


def test_class_aware_draws_classes_evenly_also_where_one_is_missing(monkeypatch):
    seen = seen_by_the_loss(monkeypatch)
    X, y = DATA["train"]
    keep = y != 3
    train_classifier(routed((X[keep], y[keep])), {}, epochs=3, sampler="class_aware")
    drawn = torch.bincount(torch.cat([labels for labels, _ in seen]), minlength=CLASSES).numpy()
    assert drawn[3] == 0
    assert drawn.sum() == 3 * keep.sum()
    assert np.ptp(drawn[np.arange(CLASSES) != 3]) <= 3


def test_cross_entropy_has_no_prior_and_balanced_softmax_that_of_the_counts(monkeypatch):
    seen = seen_by_the_loss(monkeypatch)
    for loss in ("ce", "bsm"):
        train_classifier(epochs=1, judges={}, loss=loss, batch_size=10_000)
    assert (seen[0][1] == 0).all()
    torch.testing.assert_close(seen[1][1], log_prior(torch.from_numpy(COUNTS)).float())


def test_loss_that_is_not_finite_names_the_learning_rate():
    with pytest.raises(TrainingError, match=r"head: .*not finite.*dlsa\.lr"):
        train_classifier(lr=1e38)


def test_same_seed_gives_the_same_classifier_and_another_seed_does_not():
    one, again, other = (train_classifier(judges={}, seed=seed)[0] for seed in (0, 0, 1))
    assert same_bits(one, again)
    assert not same_bits(one, other)


@pytest.mark.parametrize("sampler", ["shuffle", "class_aware"])
@pytest.mark.parametrize("select", ["val", "last"])
def test_interrupted_head_ends_in_the_same_bits(select, sampler, store, monkeypatch):
    train = partial(train_classifier, select_on=select, sampler=sampler)
    whole, _, *expected = train()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt(patch, "longtail.methods.dlsa.head_training.balanced_softmax_loss", 3 * -(-len(TRAIN.x) // 64) + 2)
        train(store=store())
    resumed, _, *found = train(store=store())
    assert same_bits(whole, resumed)
    assert found[:2] == expected[:2]
    np.testing.assert_equal(found[2], expected[2])


def test_finished_head_is_not_computed_again(store, monkeypatch):
    whole, _, *expected = train_classifier(store=store())
    for name in ("balanced_softmax_loss", "macro_accuracy"):
        monkeypatch.setattr(
            f"longtail.methods.dlsa.head_training.{name}", lambda *a: pytest.fail("it was computed again")
        )
    again, _, *found = train_classifier(store=store())
    assert same_bits(whole, again)
    assert found == expected


# ------------------------------------------------------------------------------------------------------- whole chain

CHAIN = FLOW | HEAD | {"flow_epochs": 3, "epochs": 3, "warm_start": True, "depth": 2, "flow_select": "held_out"}


def bytes_of(chain, folder):
    save_chain(folder / "chain.pt", chain, {})
    return (folder / "chain.pt").read_bytes()


def train_chain(store=None, **changes):
    train = DATA["train"]
    start = fit_linear_head(*train, CLASSES)
    return fit_chain(PARTS, start, Settings(**CHAIN | changes), 0, store or CheckpointStore(), "off")


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
    start = fit_linear_head(*DATA["train"], CLASSES)
    warm, cold = (train_chain(epochs=0, warm_start=warm) for warm in (True, False))
    for route in (1, 2, 3):
        np.testing.assert_array_equal(warm.heads[route].head.first.weight.detach(), start.weight)
        np.testing.assert_array_equal(warm.heads[route].head.first.bias.detach(), start.bias)
        assert cold.heads[route].head.first.weight.abs().max() <= 16**-0.5
