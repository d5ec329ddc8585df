import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from longtail.augment.transforms import Transform
from longtail.core.errors import ConfigError
from longtail.data.samplers import create_sampler
from longtail.data.sources import digits
from longtail.methods.objectives.contrast import Projector
from longtail.methods.pretraining.bns.objective import (
    BNS,
    bns_loss,
    bns_loss_paper,
    bns_means,
    mean_similarities,
)
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.train.batches import Batch, MemoryImages
from longtail.train.network import TrainingSettings, train_network
from longtail.train.objective import Position, TaskInfo
from longtail.train.optimizer_step import autocast
from longtail.train.schedule import create_schedule

DOUBLE = torch.float64
CPU = torch.device("cpu")
NOW = Position(epoch=0, epochs=1, step=0, steps=1)
paper_with_all = partial(bns_loss_paper, extra_positives=1000, negatives=1000)
LOSSES = pytest.mark.parametrize("loss", [bns_loss, paper_with_all])
EYE = [[1.0, 0.0], [0.0, 1.0]]
OPPOSITE = [[1.0, 0.0], [-1.0, 0.0]]
SAME = [[1.0, 1.0], [1.0, 1.0]]
E1, E2, Y = [[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]], [[4.0, 3.0], [1.0, 1.0], [-1.0, 1.0]], [0, 0, 1]


def tensor(values, **options):
    return torch.tensor(values, dtype=DOUBLE, **options)


def views(count=12, dim=5, classes=3, seed=0, dtype=DOUBLE):
    """Random embeddings of two views, and labels of classes of unlike size."""
    stream = torch.Generator().manual_seed(seed)
    e1, e2 = (torch.randn(count, dim, generator=stream, dtype=dtype).requires_grad_() for _ in range(2))
    return e1, e2, (classes * torch.rand(count, generator=stream) ** 2).long()


def gradients(loss, e1, e2, labels):
    return torch.autograd.grad(loss(e1, e2, labels), (e1, e2))


def cosine(x, y):
    x, y = x.tolist(), y.tolist()
    return sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))


def softplus(x):
    return math.log1p(math.exp(x))


def released(e1, e2, labels, temperature=0.5):
    """The released loss pair by pair (spec 4.1)."""
    rows, y = [*e1.detach(), *e2.detach()], labels.tolist() * 2
    total = 0.0
    for i, anchor in enumerate(rows):
        pairs = [(y[j] == y[i], math.exp(cosine(anchor, row) / temperature)) for j, row in enumerate(rows) if j != i]
        positives = [value for same, value in pairs if same]
        total += softplus(-sum(positives) / len(positives))
        total += softplus(sum(value for same, value in pairs if not same) / len(rows))
    return total / len(rows)


def paper_terms(e1, e2, labels, i, temperature):
    """Of anchor i: its own positive term, those of its extra positives, and for each of these rows its negatives'."""
    y = labels.tolist()
    queries = [i] + [k for k in range(len(y)) if y[k] == y[i] and k != i]
    pull = [softplus(-cosine(e1[q], e2[i]) / temperature) for q in queries]
    push = [[softplus(cosine(e1[q], e2[j]) / temperature) for j in range(len(y)) if y[j] != y[i]] for q in queries]
    return pull, push


def paper(e1, e2, labels, temperature=0.5):
    """The paper's loss with every extra positive and every negative (spec 4.2)."""
    total = 0.0
    for i in range(len(labels)):
        pull, push = paper_terms(e1.detach(), e2.detach(), labels, i, temperature)
        total += (sum(pull) + sum(sum(row) for row in push)) / len(pull)
    return total / len(labels)


# ------------------------------------------------------------------------------------------------------ released form


@pytest.mark.parametrize(
    ("e1", "e2", "labels", "expected"),
    [
        (EYE, EYE, [0, 1], 0.974694772),
        (EYE, EYE, [0, 0], 0.735949505),
        (EYE, [[-1.0, 0.0], [0.0, -1.0]], [0, 1], 1.601844233),
        (OPPOSITE, OPPOSITE, [0, 1], 0.728171044),
        (SAME, SAME, [0, 1], 3.719701058),
        (E1, E2, Y, 1.307101243),
    ],
)
def test_loss_has_the_worked_values(e1, e2, labels, expected):
    assert bns_loss(tensor(e1), tensor(e2), torch.tensor(labels)).item() == pytest.approx(expected, abs=1e-8)


def test_means_and_gradients_have_the_worked_values():
    e1, e2 = tensor(E1, requires_grad=True), tensor(E2, requires_grad=True)
    a, b = bns_means(e1, e2, torch.tensor(Y))
    close = partial(torch.testing.assert_close, atol=1e-6, rtol=0)
    close(a.detach(), tensor([5.794362, 4.128800, 4.113250, 6.338667, 6.199091, 4.113250]))
    close(b.detach(), tensor([1.046655, 0.207186, 2.231067, 0.678959, 0.852208, 0.553942]))
    first, second = gradients(bns_loss, e1, e2, torch.tensor(Y))
    close(first, tensor([[-0.060609, 0.045457], [0, 0.074981], [0.436819, 0]]))
    close(second, tensor([[-0.034721, 0.046295], [-0.169522, 0.169522], [0.104268, 0.104268]]))


@pytest.mark.parametrize("temperature", [0.3, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_loss_is_that_of_plain_loops(seed, temperature):
    e1, e2, labels = views(seed=seed)
    assert bns_loss(e1, e2, labels, temperature).item() == pytest.approx(released(e1, e2, labels, temperature))


@pytest.mark.parametrize("seed", range(3))
def test_loss_is_above_log_2(seed):
    assert bns_loss(*views(seed=seed)) > math.log(2)
    e1, e2, _ = views(seed=seed)
    assert bns_loss(e1, e2, torch.zeros(len(e1), dtype=torch.int64)) > math.log(2)


def test_swapped_views_have_the_same_loss():
    e1, e2, labels = views()
    assert bns_loss(e2, e1, labels).item() == pytest.approx(bns_loss(e1, e2, labels).item(), abs=1e-12)


def test_value_and_gradient_are_those_of_broadcast_pairs():
    """Float32 at a batch as in training: a product of unit rows against the cosine similarity of every pair."""
    e1, e2, labels = views(count=64, dim=128, classes=10, dtype=torch.float32)

    def broadcast(e1, e2, labels):
        rows, y = torch.cat([e1, e2]), labels.repeat(2)
        x = (F.cosine_similarity(rows[:, None], rows[None], dim=-1) / 0.5).exp()
        same = (y[:, None] == y).float()
        positive = same * (1 - torch.eye(len(y)))
        a = (x * positive).sum(1) / positive.sum(1)
        return (F.softplus(-a) + F.softplus((x * (1 - same)).sum(1) / len(y))).mean()

    assert bns_loss(e1, e2, labels).item() == pytest.approx(broadcast(e1, e2, labels).item(), abs=1e-6)
    for ours, theirs in zip(gradients(bns_loss, e1, e2, labels), gradients(broadcast, e1, e2, labels), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-4)


def test_labels_that_are_all_distinct_give_one_positive_each():
    e1, e2, _ = views(count=6)
    a, _ = bns_means(e1, e2, torch.arange(6))
    own = torch.exp(F.cosine_similarity(e1, e2) / 0.5).repeat(2)
    torch.testing.assert_close(a, own)


# --------------------------------------------------------------------------------------------------------- paper form


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_paper_loss_with_all_pairs_is_that_of_plain_loops(seed, temperature):
    e1, e2, labels = views(seed=seed)
    found = paper_with_all(e1, e2, labels, temperature).item()
    assert found == pytest.approx(paper(e1, e2, labels, temperature))


def test_paper_loss_draws_every_choice_of_pairs_equally_often():
    """m = n = 1 in a batch of 3 and 2: 4 choices for each anchor of the one class, 3 for each of the other, 576 in all.

    Two anchors that draw each other meet the same rows, so that some choices give the same loss.
    """
    e1, e2, _ = (value.detach() for value in views(count=5, dim=3))
    labels = torch.tensor([0, 0, 0, 1, 1])
    possible = np.zeros(1)
    for i in range(5):
        (own, *pull), (own_push, *push) = paper_terms(e1, e2, labels, i, 0.5)
        pairs = [(extra, negative) for extra in range(len(pull)) for negative in range(len(own_push))]
        choices = [(own + pull[k] + own_push[j] + push[k][j]) / 2 / 5 for k, j in pairs]
        possible = np.add.outer(possible, choices).ravel()
    values, choices_of_value = np.unique(possible.round(9), return_counts=True)
    assert len(possible) == 576 and np.diff(values).min() > 1e-7
    torch.manual_seed(0)
    drawn = np.array([bns_loss_paper(e1, e2, labels, 0.5, 1, 1).item() for _ in range(5760)])
    nearest = np.abs(drawn[:, None] - values).argmin(axis=1)
    np.testing.assert_allclose(drawn, values[nearest], rtol=0, atol=1e-9)
    counts, expected = np.bincount(nearest, minlength=len(values)), 10 * choices_of_value
    freedom = len(values) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("seed", range(5))
def test_every_anchor_meets_the_same_number_of_negatives_or_all_there_are(seed):
    """View 1 is orthogonal to view 2, so that every term is log 2: the loss counts them."""
    torch.manual_seed(seed)
    e1, e2 = tensor([[1.0, 0.0]] * 9), tensor([[0.0, 1.0]] * 9)
    labels = torch.tensor([0] * 7 + [1] * 2)
    for negatives, mean in ((0, 0), (1, 1), (2, 2), (5, (7 * 2 + 2 * 5) / 9), (100, (7 * 2 + 2 * 7) / 9)):
        found = bns_loss_paper(e1, e2, labels, 0.5, 1, negatives).item()
        assert found == pytest.approx((1 + mean) * math.log(2))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("extra", "met"), [(0, 0), (1, 1), (2, 2), (3, 3), (100, 3)])
def test_extra_positives_are_others_of_the_label_without_repetition(seed, extra, met):
    """Four orthogonal rows of one class: the own pair costs softplus(-2), every other one log 2."""
    torch.manual_seed(seed)
    rows = torch.eye(4, dtype=DOUBLE)
    found = bns_loss_paper(rows, rows, torch.zeros(4, dtype=torch.int64), 0.5, extra).item()
    assert found == pytest.approx((softplus(-2) + met * math.log(2)) / (met + 1))


def test_negatives_are_drawn_without_repetition():
    """An anchor of five orthogonal others, all but one drawn: each one at most once."""
    rows = torch.eye(6, dtype=DOUBLE)
    e2 = rows.clone().requires_grad_()
    torch.manual_seed(0)
    for _ in range(5):
        loss = bns_loss_paper(rows, e2, torch.arange(6), 0.5, 0, 4)
        # Anchor i pushes row j along e_i, with sigmoid(0) / temperature of its sixth of the mean.
        push = torch.autograd.grad(loss, e2)[0] * 6
        off = push.T[~torch.eye(6, dtype=torch.bool)].view(6, 5)
        assert torch.allclose(off.sort(dim=1).values, tensor([[0.0, 1, 1, 1, 1]] * 6))


def test_draws_follow_torchs_seed():
    e1, e2, labels = views(count=30)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(bns_loss_paper(e1, e2, labels).item())
    assert found[0] == found[1] != found[2]


# ---------------------------------------------------------------------------------------------------------- both forms


@LOSSES
@pytest.mark.parametrize("seed", range(3))
def test_length_of_a_row_does_not_matter(loss, seed):
    e1, e2, labels = views(seed=seed)
    scales = torch.rand(2, len(e1), 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)) * 100 + 1e-3
    assert loss(scales[0] * e1, scales[1] * e2, labels).item() == pytest.approx(loss(e1, e2, labels).item(), abs=1e-12)


@LOSSES
@pytest.mark.parametrize("seed", range(3))
def test_order_of_the_batch_does_not_matter(loss, seed):
    e1, e2, labels = views(seed=seed)
    order = torch.randperm(len(e1), generator=torch.Generator().manual_seed(seed))
    found = loss(e1[order], e2[order], labels[order]).item()
    assert found == pytest.approx(loss(e1, e2, labels).item(), abs=1e-12)
    for one, other in zip(
        gradients(loss, e1, e2, labels),
        gradients(lambda a, b, y: loss(a[order], b[order], y[order]), e1, e2, labels),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@LOSSES
def test_names_of_the_classes_do_not_matter(loss):
    e1, e2, labels = views()
    renamed = torch.tensor([70, -3, 0])[labels]
    assert torch.equal(loss(e1, e2, renamed), loss(e1, e2, labels))


@LOSSES
@pytest.mark.parametrize("seed", range(3))
def test_gradient_of_a_row_is_orthogonal_to_it(loss, seed):
    e1, e2, labels = views(seed=seed)
    for rows, gradient in zip((e1, e2), gradients(loss, e1, e2, labels), strict=True):
        assert (gradient.norm(dim=1) > 1e-6).all()
        torch.testing.assert_close(
            (rows * gradient).sum(dim=1), torch.zeros(len(rows), dtype=DOUBLE), atol=1e-12, rtol=0
        )


@LOSSES
def test_gradient_is_that_of_finite_differences(loss):
    e1, e2, labels = views(count=5, dim=3)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, labels), (e1, e2))


def test_batch_of_one_image_has_its_own_pair_alone():
    e1, e2, labels = views(count=1)
    pair = cosine(e1[0], e2[0]) / 0.5
    assert bns_loss(e1, e2, labels).item() == pytest.approx(softplus(-math.exp(pair)) + math.log(2))
    assert bns_loss_paper(e1, e2, labels).item() == pytest.approx(softplus(-pair))


def test_batch_of_one_class_has_no_negatives():
    e1, e2, _ = views()
    labels = torch.full((len(e1),), 4)
    a, b = bns_means(e1, e2, labels)
    assert torch.equal(b, torch.zeros_like(b))
    expected = F.softplus(-a).mean().item() + math.log(2)
    assert bns_loss(e1, e2, labels).item() == pytest.approx(expected)
    pairs = F.softplus(-(F.normalize(e1) @ F.normalize(e2).T) / 0.5)
    assert paper_with_all(e1, e2, labels).item() == pytest.approx(pairs.mean().item())


@LOSSES
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_embeddings_of_zeros_have_a_finite_gradient(loss, dtype):
    e1, e2, labels = (value.detach().clone() for value in views(dtype=dtype))
    e1[3] = 0
    for second in (e2, torch.zeros_like(e2)):
        rows = [e1.requires_grad_(), second.requires_grad_()]
        assert torch.isfinite(loss(*rows, labels))
        for gradient in gradients(loss, *rows, labels):
            assert gradient.abs().max() < 1e7


@LOSSES
def test_autocast_changes_nothing_but_the_rounding_of_the_embeddings(loss):
    e1, e2, labels = views(dtype=torch.float32)
    rounded = [value.detach().bfloat16().requires_grad_() for value in (e1, e2)]
    plain = loss(e1, e2, labels)
    plain_of_rounded = loss(*(value.float() for value in rounded), labels)
    with autocast(CPU, "bf16"):
        assert (e1 @ e2.T).dtype == torch.bfloat16
        found, found_of_rounded = loss(e1, e2, labels), loss(*rounded, labels)
    assert found.dtype == found_of_rounded.dtype == torch.float32
    assert torch.equal(found, plain) and torch.equal(found_of_rounded, plain_of_rounded)
    assert not torch.equal(plain_of_rounded, plain)
    found_of_rounded.backward()
    assert all(value.grad.dtype == torch.bfloat16 and value.grad.any() for value in rounded)


@LOSSES
def test_no_value_is_read_back_from_the_device(loss):
    """Under vmap a value that Python wants to see, and a shape that depends on values, are errors."""
    samples = [[value.detach() for value in views(seed=seed)] for seed in range(3)]
    stacked = [torch.stack(values) for values in zip(*samples, strict=True)]

    def values(*sample):
        return torch.stack([loss(*sample), *mean_similarities(*sample)])

    found = torch.func.vmap(values, randomness="different")(*stacked)
    torch.testing.assert_close(found[:, 0], torch.stack([loss(*sample) for sample in samples]))


def test_mean_similarities_are_those_of_plain_loops():
    e1, e2, labels = views()
    pairs = [(labels[i] == labels[j], cosine(e1[i], e2[j])) for i in range(12) for j in range(12)]
    positive, negative = mean_similarities(e1, e2, labels)
    assert positive.item() == pytest.approx(np.mean([value for same, value in pairs if same]))
    assert negative.item() == pytest.approx(np.mean([value for same, value in pairs if not same]))
    assert not positive.requires_grad


# ----------------------------------------------------------------------------------------------------------- objective


def task(num_features=16, classes=4):
    return TaskInfo(classes, np.full(classes, 10), num_features, epochs=2, seed=0)


def small_model(objective_class=BNS):
    torch.manual_seed(0)
    backbone = create_backbone("resnet8", in_channels=1, width=4)
    small = partial(objective_class, projector_hidden=32, projector_dim=8)
    objective = small(task(backbone.num_features))
    return Classifier(backbone, objective.create_head()), objective


def images(labels):
    stream = torch.Generator().manual_seed(0)
    first, second = (torch.randn(len(labels), 1, 8, 8, generator=stream) for _ in range(2))
    return Batch((first, second), torch.tensor(labels), torch.arange(len(labels)))


def test_projector_has_the_released_size():
    projector = BNS(task(512)).create_head()
    assert isinstance(projector, Projector)
    assert sum(parameter.numel() for parameter in projector.parameters()) == 1_312_896
    assert projector(torch.zeros(3, 512)).shape == (3, 128)


def test_projector_is_two_layers_with_a_relu_between():
    projector = Projector(3, hidden=5, dim=2).double()
    x = torch.randn(4, 3, dtype=DOUBLE)
    first, second = projector.hidden, projector.out
    expected = (x @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    torch.testing.assert_close(projector(x), expected)


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_objective_embeds_each_view_by_a_pass_of_its_own(variant, precision):
    model, objective = small_model(partial(BNS, variant=variant, temperature=0.7, extra_positives=9, negatives=9))
    batch = images((0, 0, 0, 0, 1, 1, 2, 2))
    with autocast(CPU, precision):
        loss, logs = objective.loss(model, batch, NOW)
        assert model.backbone.stages[0][0].bn1.num_batches_tracked == 2
        e1, e2 = (model(view) for view in batch.views)
    expected = {"code": bns_loss, "paper": paper_with_all}[variant](e1, e2, batch.labels, 0.7)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert loss.dtype == torch.float32
    positive, negative = mean_similarities(e1, e2, batch.labels)
    assert logs["positive_similarity"].item() == pytest.approx(positive.item(), abs=1e-5)
    assert logs["negative_similarity"].item() == pytest.approx(negative.item(), abs=1e-5)


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("labels", [(1, 1, 1), (0, 1, 2, 3), (0, 1)])
def test_objective_is_finite_in_any_batch(variant, labels):
    """One class, all labels distinct, and batches of another size one after the other."""
    model, objective = small_model(partial(BNS, variant=variant))
    loss, logs = objective.loss(model, images(labels), NOW)
    loss.backward()
    assert all(torch.isfinite(value) for value in (loss, *logs.values()))
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_low_temperature_is_refused_where_the_exponential_is_inside():
    with pytest.raises(
        ConfigError, match=r"pretrain\.bns\.temperature must be at least 0\.3 .*similarity / temperature.*, got 0\.29"
    ):
        BNS(task(), temperature=0.29)
    assert BNS(task(), temperature=0.3).params.temperature == 0.3
    assert BNS(task(), variant="paper", temperature=0.1).params.temperature == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "papers"}, "variant must be one of code, paper, got papers"),
        ({"variant": "paper", "temperature": 0.0}, "temperature must be above 0, got 0"),
        ({"temperature": float("nan")}, "temperature must be a finite number, got nan"),
        ({"extra_positives": -1}, r"extra_positives must be at least 0, got -1"),
        ({"negatives": 0}, r"negatives must be at least 1, got 0"),
        ({"projector_hidden": 0}, r"projector_hidden must be at least 1, got 0"),
        ({"projector_dim": 0}, r"projector_dim must be at least 1, got 0"),
    ],
)
def test_values_that_are_not_allowed_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        partial(BNS, **changes)(task())


def pretrain(scratch: Path, variant: str, epochs: int = 6):
    source = digits.load()
    rows = np.concatenate([np.flatnonzero(source.labels == c)[:count] for c, count in enumerate((60, 30, 15, 8))])
    part = MemoryImages(source.images[rows], source.labels[rows], Transform("crop", (0.3,), (0.4,), 8), CPU)
    model, objective = small_model(partial(BNS, variant=variant))
    schedule = create_schedule("cosine", epochs=epochs)
    settings = TrainingSettings(
        epochs, 32, lr=0.05, momentum=0.9, weight_decay=1e-4, schedule=schedule, seed=1, progress="off"
    )
    sampler = create_sampler("instance", part.labels, seed=2, epochs=epochs)
    return model, train_network(model, objective, part, None, sampler, settings, CPU, scratch).history


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_training_lowers_the_loss_and_is_the_same_twice(tmp_path, variant):
    model, history = pretrain(tmp_path / "one", variant)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    gaps = [row["positive_similarity"] - row["negative_similarity"] for row in history]
    assert gaps[-1] > gaps[0] + 0.1
    torch.rand(7)  # what the process did in between must not matter
    again, repeated = pretrain(tmp_path / "two", variant)
    assert repeated == history
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
