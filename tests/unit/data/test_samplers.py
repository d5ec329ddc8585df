import numpy as np
import pytest

from longtail.core.errors import ConfigError, DataError
from longtail.data.samplers import SAMPLERS, ClassAwareSampler, FixedOrder, SquareRootSampler, create_sampler

COUNTS = np.array([100, 25, 4])


def labels_of(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


LABELS = labels_of(COUNTS)
INSTANCE = [0.775194, 0.193798, 0.031008]
BALANCED = [1 / 3, 1 / 3, 1 / 3]


@pytest.fixture(params=list(SAMPLERS))
def name(request):
    return request.param


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [("instance", INSTANCE), ("square_root", [0.588235, 0.294118, 0.117647]), ("class_aware", BALANCED)],
)
def test_class_probability_has_the_worked_values(sampler, expected):
    np.testing.assert_allclose(
        create_sampler(sampler, LABELS, seed=0, epochs=90).class_probability(7), expected, atol=1e-6
    )


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (1, INSTANCE),
        (2, [0.770229, 0.195366, 0.034405]),
        (46, [0.551781, 0.264350, 0.183869]),
        (90, BALANCED),
    ],
)
def test_progressive_probability_has_the_worked_values(epoch, expected):
    sampler = create_sampler("progressive", LABELS, seed=0, epochs=90)
    np.testing.assert_allclose(sampler.class_probability(epoch - 1), expected, atol=1e-6)


def test_progressive_mixing_is_not_the_papers_t_over_T():
    first = create_sampler("progressive", LABELS, seed=0, epochs=90).class_probability(0)
    assert not np.allclose(first, [0.770284, 0.195349, 0.034367], atol=1e-4)


def test_progressive_over_one_epoch_is_instance_balanced():
    np.testing.assert_allclose(
        create_sampler("progressive", LABELS, seed=0, epochs=1).class_probability(0), INSTANCE, atol=1e-6
    )


def test_square_root_image_probability_has_the_worked_values():
    per_image = SquareRootSampler(LABELS, seed=0, epochs=1).image_probability()
    np.testing.assert_allclose(
        [per_image[c == LABELS].max() for c in range(3)], [0.005882, 0.011765, 0.029412], atol=1e-6
    )
    assert per_image.sum() == pytest.approx(1.0)


def test_drawn_shares_follow_class_probability(name):
    sampler = create_sampler(name, LABELS, seed=1, epochs=5)
    draws = len(LABELS)
    epochs = 5 if name == "progressive" else 300
    drawn = sum(np.bincount(LABELS[sampler.epoch(e, draws)], minlength=3) for e in range(epochs))
    expected = np.mean([sampler.class_probability(e) for e in range(epochs)], axis=0)
    np.testing.assert_allclose(drawn / drawn.sum(), expected, atol=0.08 if name == "progressive" else 0.01)


@pytest.mark.parametrize(
    ("images", "classes", "most", "batch", "steps", "dropped", "class_aware_offers"),
    [
        (115_846, 1000, 1280, 512, 226, 134, 1_280_000),
        (62_500, 365, 4980, 256, 244, 36, 1_817_700),
        (437_513, 8142, 1000, 512, 854, 265, 8_142_000),
    ],
)
def test_offered_draws_are_those_of_the_published_datasets(
    images, classes, most, batch, steps, dropped, class_aware_offers
):
    counts = np.full(classes, (images - most) // (classes - 1))
    counts[0] = most
    counts[1 : 1 + images - counts.sum()] += 1
    labels = np.repeat(np.arange(classes), counts)
    offered = {name: create_sampler(name, labels, seed=0, epochs=90).offered for name in SAMPLERS}
    assert offered == {
        "instance": images,
        "square_root": images,
        "progressive": images,
        "class_aware": class_aware_offers,
    }
    assert (offered["instance"] // batch, offered["instance"] % batch) == (steps, dropped)


def test_epochs_are_positions_of_the_asked_number(name):
    drawn = create_sampler(name, LABELS, seed=0, epochs=3).epoch(2, 101)
    assert drawn.shape == (101,) and drawn.dtype == np.int64
    assert drawn.min() >= 0 and drawn.max() < len(LABELS)


def test_any_epoch_can_be_asked_in_any_order(name):
    forward = create_sampler(name, LABELS, seed=3, epochs=6)
    in_order = [forward.epoch(e, 50).tolist() for e in range(6)]
    backward = create_sampler(name, LABELS, seed=3, epochs=6)
    for e in (5, 0, 3, 5, 1, 4, 2):
        assert backward.epoch(e, 50).tolist() == in_order[e]
    assert create_sampler(name, LABELS, seed=3, epochs=6).epoch(4, 50).tolist() == in_order[4]


def test_seed_and_epoch_change_the_draws(name):
    sampler = create_sampler(name, LABELS, seed=0, epochs=3)
    assert sampler.epoch(0, 60).tolist() != sampler.epoch(1, 60).tolist()
    assert sampler.epoch(0, 60).tolist() != create_sampler(name, LABELS, seed=1, epochs=3).epoch(0, 60).tolist()


def test_instance_epoch_is_a_permutation_and_a_shorter_one_its_beginning():
    sampler = create_sampler("instance", LABELS, seed=0, epochs=2)
    assert sorted(sampler.epoch(1, 129)) == list(range(129))
    assert sampler.epoch(1, 100).tolist() == sampler.epoch(1, 129)[:100].tolist()


def test_instance_sampler_refuses_more_draws_than_images():
    with pytest.raises(
        DataError, match="draws must be at most 129, the number of images, for the instance sampler, got 130"
    ):
        create_sampler("instance", LABELS, seed=0, epochs=2).epoch(0, 130)


class TestClassAwareWorkedExample:
    """n = [5, 2, 1], k = 4: offered length 15."""

    labels = labels_of([5, 2, 1])

    @pytest.mark.parametrize("seed", range(20))
    def test_first_twelve_draws_are_three_pure_blocks(self, seed):
        sampler = ClassAwareSampler(self.labels, seed=seed, epochs=1)
        assert sampler.offered == 15
        drawn = sampler.epoch(0, 15)
        blocks = self.labels[drawn[:12]].reshape(3, 4)
        assert (blocks == blocks[:, :1]).all()
        assert sorted(blocks[:, 0]) == [0, 1, 2]
        distinct = {int(b[0]): len(set(images)) for b, images in zip(blocks, drawn[:12].reshape(3, 4), strict=True)}
        assert distinct == {0: 4, 1: 2, 2: 1}
        assert sorted(np.bincount(self.labels[drawn])) == [4, 4, 7]

    @pytest.mark.parametrize("seed", range(5))
    def test_one_image_a_turn_gives_equal_totals(self, seed):
        drawn = ClassAwareSampler(self.labels, seed=seed, epochs=1, samples_per_class=1).epoch(0, 15)
        assert np.bincount(self.labels[drawn]).tolist() == [5, 5, 5]

    @pytest.mark.parametrize("draws", [4, 8, 20, 28])
    def test_class_totals_over_epochs_differ_by_at_most_one_block(self, draws):
        sampler = ClassAwareSampler(self.labels, seed=0, epochs=9)
        totals = np.zeros(3, dtype=int)
        for epoch in range(9):
            totals += np.bincount(self.labels[sampler.epoch(epoch, draws)], minlength=3)
            assert np.ptp(totals) <= 4

    def test_cut_epoch_starts_a_new_block(self):
        sampler = ClassAwareSampler(self.labels, seed=0, epochs=2)
        whole = ClassAwareSampler(self.labels, seed=0, epochs=1).epoch(0, 32)
        assert sampler.epoch(0, 15).tolist() == whole[:15].tolist()
        assert sampler.epoch(1, 15).tolist() == whole[16:31].tolist()


@pytest.mark.parametrize("k", [1, 3, 4])
def test_class_aware_aligned_runs_hold_every_class_once(k):
    labels = labels_of([9, 30, 1, 2, 14])
    blocks = labels[ClassAwareSampler(labels, seed=0, epochs=1, samples_per_class=k).epoch(0, 40 * k)].reshape(40, k)
    assert (blocks == blocks[:, :1]).all()
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in blocks[:, 0].reshape(8, 5))


@pytest.mark.parametrize("epochs", [1, 2, 7, 20])
def test_class_aware_usage_within_a_class_differs_by_at_most_one(epochs):
    labels = labels_of([9, 30, 1, 2, 14])
    sampler = ClassAwareSampler(labels, seed=0, epochs=epochs)
    used = np.bincount(np.concatenate([sampler.epoch(e, 56) for e in range(epochs)]), minlength=len(labels))
    assert all(np.ptp(used[labels == c]) <= 1 for c in range(5))


def test_class_aware_reshuffles_every_wrap():
    labels = np.repeat([0, 1], [12, 12])
    drawn = ClassAwareSampler(labels, seed=0, epochs=1).epoch(0, 12 * 2 * 5)
    wraps = drawn[labels[drawn] == 0].reshape(5, 12)
    assert len({tuple(wrap) for wrap in wraps}) == 5
    assert all(sorted(wrap) == list(range(12)) for wrap in wraps)


def test_progressive_positions_carry_over_epochs():
    sampler = create_sampler("progressive", LABELS, seed=0, epochs=8)
    used = np.zeros(len(LABELS), dtype=int)
    for epoch in range(8):
        used += np.bincount(sampler.epoch(epoch, 128), minlength=len(LABELS))
        assert all(np.ptp(used[c == LABELS]) <= 1 for c in range(3))


def test_square_root_draws_with_replacement():
    drawn = create_sampler("square_root", LABELS, seed=0, epochs=1).epoch(0, len(LABELS))
    assert len(set(drawn)) < len(LABELS)


def test_unknown_sampler_is_refused_with_the_allowed_names():
    with pytest.raises(
        ConfigError, match="sampler must be one of instance, class_aware, square_root, progressive, got 'balanced'"
    ):
        create_sampler("balanced", LABELS, seed=0, epochs=1)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 0, 2], "no image of class 1"),
        ([1, 2], "no image of class 0"),
        ([0, -1], "got -1"),
        ([0.0, 1.0], "must be integers"),
        ([], "nonempty"),
        ([[0, 1]], "1-D"),
    ],
)
def test_unusable_labels_are_refused(name, labels, reason):
    with pytest.raises(DataError, match=reason):
        create_sampler(name, np.array(labels), seed=0, epochs=1)


def test_values_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="samples_per_class must be at least 1, got 0"):
        create_sampler("class_aware", LABELS, seed=0, epochs=1, samples_per_class=0)
    with pytest.raises(ConfigError, match="epochs must be at least 1 for the progressive sampler, got 0"):
        create_sampler("progressive", LABELS, seed=0, epochs=0)


def test_every_order_of_a_cyclic_list_is_equally_likely():
    """Chi-square over the 24 orders of a class of four images in 4,800 wraps; 23 degrees of freedom, p = 1e-4 at 60."""
    sampler = create_sampler("class_aware", np.repeat([0, 1], [4, 1]), seed=11, epochs=1, samples_per_class=4)
    blocks = sampler.epoch(0, 2 * 4 * 4800).reshape(-1, 4)
    orders, seen = np.unique(blocks[(blocks < 4).all(axis=1)], axis=0, return_counts=True)
    assert len(orders) == 24 and seen.sum() == 4800
    assert ((seen - 200) ** 2 / 200).sum() < 60


def test_the_class_list_puts_each_class_first_equally_often():
    labels = np.arange(10)
    first = create_sampler("class_aware", labels, seed=3, epochs=1, samples_per_class=1).epoch(0, 20_000)[::10]
    seen = np.bincount(first, minlength=10)
    assert ((seen - 200) ** 2 / 200).sum() < 34  # 9 degrees of freedom, p = 1e-4


def test_fixed_order_is_that_of_epoch_0_in_every_epoch():
    labels = np.repeat(np.arange(3), [20, 8, 2])
    inner = create_sampler("instance", labels, seed=3, epochs=9)
    fixed = FixedOrder(inner)
    assert not np.array_equal(inner.epoch(5, 24), inner.epoch(0, 24))
    for epoch in range(9):
        assert np.array_equal(fixed.epoch(epoch, 24), inner.epoch(0, 24))
