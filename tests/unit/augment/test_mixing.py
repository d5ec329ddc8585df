"""MixUp, CutMix and rotation: worked numbers, the direct loop, and how the shares reach a loss."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from longtail.augment.mixing import boxes, cutmix, draw_boxes, draw_shares, kept_share, mixup
from longtail.core.errors import ConfigError
from longtail.methods.objectives.ce.objective import CrossEntropy
from longtail.methods.objectives.focal.objective import Focal
from longtail.methods.pretraining.rotation.objective import draw_turns, rotate
from longtail.train.batches import Batch
from longtail.train.objective import Position, TaskInfo

CPU = torch.device("cpu")


def box_of(share: float, row: int, column: int, side: int = 32) -> list[int]:
    return boxes(torch.tensor([share]), torch.tensor([row]), torch.tensor([column]), side, side)[0].tolist()


@pytest.mark.parametrize(
    ("share", "row", "column", "expected"),
    [
        (0.5, 16, 16, [5, 27, 5, 27]),  # 22 x 22 = 484 pixels
        (0.9, 16, 16, [11, 21, 11, 21]),  # 100 pixels
        (1.0, 16, 16, [16, 16, 16, 16]),
        (0.0, 0, 0, [0, 16, 0, 16]),
        (0.5, 31, 2, [20, 32, 0, 13]),
    ],
)
def test_boxes_have_the_worked_edges(share, row, column, expected):
    assert box_of(share, row, column) == expected


def test_pasted_area_is_smaller_than_its_label_on_average():
    torch.manual_seed(0)
    share = draw_shares(50_000, 1.0, CPU)
    kept = kept_share(draw_boxes(share, 32, 32), 32, 32)
    assert (1 - share).mean().item() == pytest.approx(0.5, abs=0.005)
    assert (1 - kept).mean().item() == pytest.approx(0.321, abs=0.005)


def test_cutmix_pastes_each_images_own_box():
    torch.manual_seed(1)
    images, partners = torch.rand(40, 2, 9, 7), torch.rand(40, 2, 9, 7)
    box = draw_boxes(torch.rand(40), 9, 7)
    found = cutmix(images, partners, box)
    for i, (top, bottom, left, right) in enumerate(box.tolist()):
        expected = images[i].clone()
        expected[:, top:bottom, left:right] = partners[i, :, top:bottom, left:right]
        assert torch.equal(found[i], expected)
        assert kept_share(box, 9, 7)[i].item() == pytest.approx((found[i] == images[i]).float().mean().item())
    assert len({tuple(edges) for edges in box.tolist()}) > 20


def test_centers_of_boxes_are_uniform_over_the_pixels():
    torch.manual_seed(2)
    box = draw_boxes(torch.full((9000,), 1.0), 6, 3)  # empty boxes lie at their centers
    rows, columns = box[:, 0].tolist(), box[:, 2].tolist()
    counts = np.histogram2d(rows, columns, bins=(range(7), range(4)))[0].ravel()
    assert stats.chisquare(counts).pvalue > 1e-4


def test_mixup_weighs_each_pair_by_its_own_share_or_all_by_one():
    torch.manual_seed(3)
    images, partners, share = torch.rand(5, 1, 4, 4), torch.rand(5, 1, 4, 4), torch.rand(5)
    found = mixup(images, partners, share)
    for i in range(5):
        torch.testing.assert_close(found[i], share[i] * images[i] + (1 - share[i]) * partners[i])
    torch.testing.assert_close(mixup(images, partners, share[:1])[3], mixup(images[3:4], partners[3:4], share[:1])[0])
    assert torch.equal(mixup(images, partners, torch.ones(5)), images)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_have_the_beta_distribution(alpha):
    torch.manual_seed(4)
    found = draw_shares(4000, alpha, CPU).numpy()
    assert stats.kstest(found, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert (found >= 0).all() and (found <= 1).all()


# In a loss


class Sees(torch.nn.Module):
    """Logits that are linear in the pixels, and a note of what it saw."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.linear = torch.nn.Linear(2 * 8 * 8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return self.linear(x.flatten(1))


def task() -> TaskInfo:
    return TaskInfo(3, np.array([8, 4, 2]), 4, 10, seed=0)


def given(size: int = 12) -> Batch:
    views = torch.rand(size, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch((views,), torch.arange(size) % 3, torch.arange(size))


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(CrossEntropy, {}), (CrossEntropy, {"rule": "reweight"}), (Focal, {"rule": "reweight", "released": True})],
)
def test_row_counts_for_both_labels_by_their_shares(mix, kind, options):
    """Against a loop over images and both of their labels."""
    objective, model, batch = kind(task(), mix=mix, **options), Sees(), given()
    torch.manual_seed(6)
    loss, logs = objective.loss(model, batch, Position(0, 10, 0, 1))
    torch.manual_seed(6)
    images, labels, shares = objective.mixed(batch.views[0], batch.labels)
    assert torch.equal(images, model.seen) and len(labels) == len(shares) == 24
    torch.testing.assert_close(shares[:12] + shares[12:], torch.ones(12))
    logits = model(images).detach()
    of_class = objective.weights if options else torch.ones(3)
    top = bottom = correct = 0.0
    for i in range(12):
        for label, share in ((labels[i], shares[i].item()), (labels[12 + i], shares[12 + i].item())):
            weight = of_class[label].item()
            entropy = F.cross_entropy(logits[i : i + 1], label[None]).item()
            if kind is Focal:
                weighted = weight * entropy
                top += share * (1 - math.exp(-weighted)) * weighted
                bottom += share
            else:
                top += share * weight * entropy
                bottom += share * weight
            correct += share * float(logits[i].argmax() == label)
    assert loss.item() == pytest.approx(top / bottom, rel=1e-5)
    assert logs["train_accuracy"].item() == pytest.approx(correct / 12, rel=1e-5)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_every_image_has_its_own_share_and_partner(mix):
    objective, batch = CrossEntropy(task(), mix=mix), given(60)
    torch.manual_seed(0)
    images, labels, shares = objective.mixed(batch.views[0], batch.labels)
    assert len(set(shares[:60].tolist())) > 20
    changed = (images != batch.views[0]).flatten(1).any(dim=1)
    assert 30 < changed.sum() <= 60
    assert torch.equal(torch.sort(labels[60:]).values, torch.sort(batch.labels).values), "each is a partner once"


def sources(mix: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mixed images whose sources had one level each, their label; labels and shares (2, 60) of the two sources."""
    labels = torch.arange(60).roll(7)
    levels = labels.float().view(-1, 1, 1, 1).expand(60, 2, 8, 9)
    torch.manual_seed(2)
    images, both, shares = CrossEntropy(task(), mix=mix).mixed(levels, labels)
    both, shares = both.view(2, 60), shares.view(2, 60)
    assert torch.equal(both[0], labels) and (both[0] != both[1]).sum() > 50
    return images, both, shares


def test_level_of_a_mixup_is_that_of_its_labels_by_their_shares():
    images, labels, shares = sources("mixup")
    expected = (shares * labels).sum(dim=0)
    torch.testing.assert_close(images, expected.view(-1, 1, 1, 1).expand_as(images))
    assert (shares[0] < 0.3).any() and (shares[0] > 0.7).any()


def test_share_of_a_cutmix_label_is_the_counted_share_of_its_sources_pixels():
    images, labels, shares = sources("cutmix")
    differ = labels[0] != labels[1]
    counted = (images == labels[:, :, None, None, None]).flatten(2).float().mean(dim=2)
    torch.testing.assert_close(shares[:, differ], counted[:, differ])
    assert (shares[0] < 0.6).any() and (shares[0] > 0.8).any()


def test_mix_none_sees_the_images_and_unknown_is_refused():
    model = Sees()
    CrossEntropy(task()).loss(model, given(), Position(0, 10, 0, 1))
    assert model.seen is not None and torch.equal(model.seen, given().views[0])
    with pytest.raises(ConfigError, match=r"train\.mix must be one of none, mixup, cutmix, got blend"):
        CrossEntropy(task(), mix="blend")


# Rotation


def test_rotation_has_the_worked_values():
    image = torch.tensor([[1, 2], [3, 4]]).view(1, 1, 2, 2)
    found = [rotate(image, torch.tensor([turns])).view(2, 2).tolist() for turns in range(4)]
    assert found == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    again = image
    for _ in range(4):
        again = rotate(again, torch.tensor([1]))
    assert torch.equal(again, image)


def test_each_image_has_its_own_rotation_in_all_channels():
    images, turns = torch.rand(8, 3, 5, 5), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    found = rotate(images, turns)
    for i, turn in enumerate(turns.tolist()):
        assert np.array_equal(found[i].numpy(), np.rot90(images[i].numpy(), turn, axes=(1, 2)))


@pytest.mark.parametrize("count", [1, 3, 4, 7, 128, 129])
def test_turns_are_nearly_balanced_and_in_random_order(count):
    torch.manual_seed(0)
    turns = [draw_turns(count, CPU) for _ in range(20)]
    most = count // 4 + 1
    assert all(turn.shape == (count,) and torch.bincount(turn, minlength=4).max() <= most for turn in turns)
    assert len({tuple(turn.tolist()) for turn in turns}) > 1
