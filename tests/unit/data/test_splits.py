"""Long-tailed splits: the published counts, exactly the published images, and who may be left out."""

import numpy as np
import pytest

from longtail.core.errors import ConfigError, DataError
from longtail.core.seeds import derive_seed, generator
from longtail.data.splits import Split, long_tailed_counts, make_split, select

CIFAR10_EXP = {
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
    20: [5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250],
    50: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    200: [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
}
CIFAR10_EXP_TOTAL = {10: 20431, 20: 17023, 50: 13996, 100: 12406, 200: 11203}
CIFAR100_EXP = {
    10: (19573, [500, 488, 477], [52, 51, 50]),
    20: (15907, [500, 485, 470], [26, 25, 25]),
    50: (12608, [500, 480, 462], [10, 10, 10]),
    100: (10847, [500, 477, 455], [5, 5, 5]),
    200: (9502, [500, 473, 449], [2, 2, 2]),
}
STEP_TOTALS = {10: (27500, 27500), 20: (26250, 26250), 50: (25500, 25500), 100: (25250, 25250), 200: (25125, 25100)}


def counts_of(num_classes: int, largest: int, imb_type: str, imb_factor: float) -> np.ndarray:
    return long_tailed_counts(np.full(num_classes, largest), imb_type, imb_factor)


def published_selection(labels, counts, seed):
    """Cao et al.'s procedure, written from its description: the legacy global generator, seeded once."""
    np.random.seed(seed)
    ids = []
    for label, count in enumerate(counts):
        members = [i for i in range(len(labels)) if labels[i] == label]
        members = np.array(members)
        np.random.shuffle(members)
        ids += members[:count].tolist()
    return ids


def split_of(labels, parts, **options) -> Split:
    labels, parts = np.asarray(labels), np.asarray(parts)
    names = tuple(f"name{k}" for k in range(labels.max() + 1))
    settings = {"imb_type": "exp", "imb_factor": 10.0, "val_per_class": 0, "split_seed": 0} | options
    return make_split(labels, parts, names, **settings)


def balanced(num_classes: int, train: int, test: int = 3, seed: int = 0):
    """Shuffled labels and their parts."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(num_classes), train))
    labels = np.concatenate([labels, np.repeat(np.arange(num_classes), test)])
    return labels, np.array(["train"] * (num_classes * train) + ["test"] * (num_classes * test))


# Counts


@pytest.mark.parametrize("rho", CIFAR10_EXP)
def test_exponential_cifar10_counts_are_the_published_ones(rho):
    counts = counts_of(10, 5000, "exp", rho)
    assert counts.tolist() == CIFAR10_EXP[rho]
    assert counts.sum() == CIFAR10_EXP_TOTAL[rho]
    assert counts.dtype == np.int64


@pytest.mark.parametrize("rho", CIFAR100_EXP)
def test_exponential_cifar100_counts_are_the_published_ones(rho):
    counts = counts_of(100, 500, "exp", rho).tolist()
    assert (sum(counts), counts[:3], counts[-3:]) == CIFAR100_EXP[rho]


@pytest.mark.parametrize("rho", STEP_TOTALS)
def test_step_totals_are_the_published_ones(rho):
    ten, hundred = counts_of(10, 5000, "step", rho), counts_of(100, 500, "step", rho)
    assert (ten.sum(), hundred.sum()) == STEP_TOTALS[rho]
    assert ten.tolist() == [5000] * 5 + [5000 // rho] * 5


@pytest.mark.parametrize(("rho", "last"), [(100, 49), (10, 499)])
def test_power_through_logarithms_would_lose_an_image(rho, last):
    through_logarithms = [int(5000 * np.exp(-k * np.log(rho) / 9)) for k in range(10)]
    assert through_logarithms[-1] == last
    assert counts_of(10, 5000, "exp", rho)[-1] == last + 1


def test_power_in_single_precision_would_differ():
    single = [int(np.float32(5000) * np.float32(1 / 1000) ** np.float32(k / 9)) for k in range(10)]
    assert counts_of(10, 5000, "exp", 1000).tolist() != single


def test_counts_are_truncated_not_rounded():
    assert counts_of(2, 5, "exp", 2).tolist() == [5, 2]
    assert counts_of(2, 500, "step", 200).tolist() == [500, 2]


@pytest.mark.parametrize("imb_type", ["exp", "step"])
def test_factor_one_keeps_every_class_whole(imb_type):
    assert counts_of(4, 30, imb_type, 1).tolist() == [30] * 4


@pytest.mark.parametrize("imb_type", ["exp", "step"])
def test_largest_class_is_the_smallest_pool(imb_type):
    counts = long_tailed_counts(np.array([50, 40, 60, 70]), imb_type, 4)
    assert counts[0] == 40
    assert counts[-1] == 10


def test_natural_keeps_the_pool_as_it_is():
    assert long_tailed_counts(np.array([7, 1, 900]), "natural", 100).tolist() == [7, 1, 900]


def test_step_with_an_odd_number_of_classes_is_refused():
    with pytest.raises(
        ConfigError, match=r"imb_type must be exp or natural for an odd number of classes \(5\), got step"
    ):
        counts_of(5, 100, "step", 10)


@pytest.mark.parametrize("imb_type", ["exp", "step"])
def test_imb_factor_that_empties_the_smallest_class_is_refused_with_the_limit(imb_type):
    with pytest.raises(ConfigError, match=r"imb_factor must be at most 80, got 1000: .* 80 images, "):
        counts_of(4, 80, imb_type, 1000)


@pytest.mark.parametrize("largest", [2, 3, 49, 50, 98, 103, 124, 500, 5000])
def test_imb_factor_that_the_message_allows_is_accepted(largest):
    """49 * (1 / 49) is below 1 in floating point; the message must not offer what is refused."""
    with pytest.raises(ConfigError) as caught:
        counts_of(2, largest, "exp", 1e6)
    allowed = float(str(caught.value).partition("at most ")[2].partition(", got")[0])
    assert counts_of(2, largest, "exp", allowed)[-1] >= 1


def test_single_class_is_refused_or_kept_but_no_division_by_zero():
    try:
        assert counts_of(1, 10, "exp", 1).tolist() == [10]
    except (ConfigError, DataError) as error:
        assert "class" in str(error)


# Which images


def test_selection_has_the_worked_values():
    labels = np.arange(200) % 10
    counts = long_tailed_counts(np.bincount(labels), "exp", 10)
    assert counts.tolist() == [20, 15, 11, 9, 7, 5, 4, 3, 2, 2]
    chosen = select(labels, np.arange(200), counts, np.random.RandomState(5))
    assert len(chosen) == 78
    assert chosen.sum() == 8216
    assert chosen[:8].tolist() == [20, 50, 170, 190, 120, 10, 110, 100]
    assert chosen[20:24].tolist() == [31, 121, 81, 171]
    assert chosen[-4:].tolist() == [128, 58, 199, 109]


@pytest.mark.parametrize("imb_type", ["exp", "step"])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_split_without_val_is_the_published_one_index_for_index(imb_type, seed):
    labels, parts = balanced(6, 60, seed=seed % 7)
    split = split_of(labels, parts, imb_type=imb_type, imb_factor=10, split_seed=seed)
    counts = counts_of(6, 60, imb_type, 10)
    assert split.train.tolist() == published_selection(labels[:360], counts, seed)
    assert split.val.tolist() == []
    assert split.test.tolist() == list(range(360, 378))
    assert split.train.dtype == split.val.dtype == split.test.dtype == np.int64


def test_selection_does_not_touch_the_global_generator():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    split_of(*balanced(4, 30), val_per_class=2)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_larger_split_contains_the_smaller_one():
    labels, parts = balanced(4, 100)
    large, small = (split_of(labels, parts, imb_factor=rho).train for rho in (10, 50))
    assert set(small) < set(large)


def test_seed_changes_the_images_but_not_the_counts():
    labels, parts = balanced(4, 50)
    first, second = (split_of(labels, parts, split_seed=seed, val_per_class=5) for seed in (0, 1))
    assert set(first.train) != set(second.train)
    assert set(first.val) != set(second.val)
    np.testing.assert_array_equal(np.bincount(labels[first.train]), np.bincount(labels[second.train]))


# val


def test_val_is_drawn_from_the_pool_before_it_is_subsampled():
    labels, parts = balanced(4, 50)
    splits = [
        split_of(labels, parts, val_per_class=10, imb_factor=rho, imb_type=t)
        for rho, t in [(1, "exp"), (8, "exp"), (8, "step")]
    ]
    for split in splits:
        np.testing.assert_array_equal(split.val, splits[0].val)
        assert not set(split.val) & set(split.train)
        assert not set(split.val) & set(split.test)
        assert np.bincount(labels[split.val]).tolist() == [10] * 4
        assert (np.bincount(labels[split.train]) >= 1).all()
    assert len(splits[0].train) == 4 * 40


def test_same_procedure_runs_on_the_pool_that_val_leaves():
    labels, parts = balanced(4, 50)
    split = split_of(labels, parts, val_per_class=10, imb_factor=4)
    left = np.setdiff1d(np.arange(200), split.val)
    chosen = published_selection(labels[left], counts_of(4, 40, "exp", 4), 0)
    assert split.train.tolist() == left[chosen].tolist()


def test_val_has_a_generator_of_its_own():
    """So the training images are those that the published procedure draws from the same pool without val."""
    labels, parts = balanced(3, 40)
    with_val = split_of(labels, parts, val_per_class=8, imb_type="natural")
    pool = np.where(np.isin(np.arange(len(labels)), with_val.val), "unused", parts)
    without = split_of(labels, pool, val_per_class=0, imb_type="natural")
    np.testing.assert_array_equal(with_val.train, without.train)


def test_val_takes_at_most_a_fifth_of_a_class():
    counts = np.array([100, 49, 10, 9, 5, 4, 1])
    labels = np.repeat(np.arange(7), counts)
    parts = np.array(["train"] * len(labels) + ["test"] * 7)
    labels = np.concatenate([labels, np.arange(7)])
    split = split_of(labels, parts, val_per_class=10, imb_type="natural")
    assert np.bincount(labels[split.val], minlength=7).tolist() == [10, 9, 2, 1, 1, 0, 0]
    assert np.bincount(labels[split.train]).tolist() == [90, 40, 8, 8, 4, 4, 1]


def test_val_of_the_dataset_wins():
    labels, parts = balanced(3, 20)
    parts[[0, 5, 9]] = "val"
    for val_per_class in (0, 4):
        split = split_of(labels, parts, val_per_class=val_per_class, imb_type="natural")
        assert split.val.tolist() == [0, 5, 9]
        assert len(split.train) == 57


# test


def test_pool_without_test_part_gives_forty_of_each_class():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), [60, 70, 80]))
    split = split_of(labels, ["pool"] * 210, val_per_class=10, imb_factor=2)
    assert np.bincount(labels[split.test]).tolist() == [40] * 3
    assert np.bincount(labels[split.val]).tolist() == [4, 6, 8]
    assert np.bincount(labels[split.train]).tolist() == [16, 11, 8]
    parts = [set(split.train), set(split.val), set(split.test)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    other = split_of(labels, ["pool"] * 210, val_per_class=10, imb_factor=2, split_seed=1)
    assert set(other.test) != parts[2]


def test_pool_of_a_class_with_forty_images_is_refused():
    with pytest.raises(DataError, match=r"images per class must be more than 40 .*, got 40"):
        split_of(np.repeat([0, 1], [40, 90]), ["pool"] * 130)


@pytest.mark.parametrize("part", ["train", "test"])
def test_class_without_an_image_is_named(part):
    labels, parts = balanced(3, 10)
    parts[(labels == 1) & (parts == part)] = "val"
    word = {"train": "training", "test": "test"}[part]
    with pytest.raises(DataError, match=rf"class 1 \(name1\) has no {word} image; every class needs at least one"):
        split_of(labels, parts)


def test_imb_factor_beyond_the_data_is_refused_by_make_split():
    with pytest.raises(ConfigError, match=r"imb_factor must be at most .*, got 500"):
        split_of(*balanced(4, 100), imb_factor=500)


# Random streams by name


def test_seed_is_a_function_of_every_part_and_its_type():
    seeds = [
        derive_seed(0, "a", 1),
        derive_seed(0, "a", 2),
        derive_seed(1, "a", 1),
        derive_seed("0", "a", 1),
        derive_seed(0, "a1"),
        derive_seed("a", 0, 1),
        derive_seed(0, "a", 1, 0),
        derive_seed(),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_and_streams_are_the_same_on_every_machine():
    assert derive_seed(0, "train_backbone") == 6238858130162942807
    assert generator(0, "val").integers(0, 1000, 4).tolist() == [181, 772, 421, 324]


def test_streams_of_one_name_agree_and_of_two_names_do_not():
    np.testing.assert_array_equal(generator(7, "x").random(5), generator(7, "x").random(5))
    assert (generator(7, "x").random(5) != generator(7, "y").random(5)).all()


def test_worked_selection_of_the_bns_code():
    """Targets i mod 3, twelve images, factor 0.25: positions in the order of selection, classes in ascending order."""
    labels = np.concatenate([np.arange(12) % 3, np.arange(3)])
    split = split_of(labels, ["train"] * 12 + ["test"] * 3, imb_factor=4.0)
    assert split.train.tolist() == [6, 9, 3, 0, 1, 7, 11]


def explicit(class_counts, **changes):
    labels = np.repeat([0, 1, 2], [30, 20, 25])
    parts = np.full(75, "train")
    for label in range(3):
        parts[np.flatnonzero(labels == label)[:5]] = "test"
    settings = {"imb_type": "counts", "imb_factor": 100, "val_per_class": 0, "split_seed": 0} | changes
    return labels, make_split(labels, parts, ("cat", "dog", "eel"), **settings, class_counts=class_counts)


@pytest.mark.parametrize("given", [[7, 3, 20], {"cat": 7, "dog": 3}])
def test_explicit_counts_by_position_or_name_and_unnamed_classes_keep_all(given):
    labels, split = explicit(given)
    assert np.bincount(labels[split.train]).tolist() == [7, 3, 20]


def test_larger_explicit_sets_contain_smaller_ones_with_the_same_seed_only():
    sets = {counts: set(explicit(list(counts))[1].train.tolist()) for counts in ((5, 15, 9), (6, 15, 10), (25, 15, 20))}
    small, middle, large = sets.values()
    assert small < middle < large
    assert set(explicit([5, 15, 9], split_seed=1)[1].train.tolist()) != small


@pytest.mark.parametrize(
    "given, message",
    [
        ([7, 16, 20], r"class_counts must be 1 to 15 for class 1 \(dog\), whose training images these are, got 16"),
        ({"eel": 0}, r"class_counts must be 1 to 20 for class 2 \(eel\), whose training images these are, got 0"),
        ([7, 3], "class_counts must have one number for each of the 3 classes, got 2"),
        ({"eels": 3}, r"class_counts must name classes of the dataset, got eels \(did you mean eel\?\)"),
    ],
)
def test_explicit_counts_that_do_not_fit_are_refused_by_class(given, message):
    with pytest.raises(ConfigError, match=message):
        explicit(given)


def unsplit(sizes=(40, 10, 3, 2, 1), groups=None, **changes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    names = tuple("abcdefgh"[: len(sizes)])
    settings = {"imb_type": "natural", "imb_factor": 1, "val_per_class": 0, "split_seed": 0} | changes
    parts = np.full(len(labels), "all")
    return labels, make_split(labels, parts, names, **settings, groups=None if groups is None else np.asarray(groups))


def test_a_share_of_each_class_of_an_unsplit_dataset_is_its_test_part():
    labels, split = unsplit((40, 10, 3, 2))
    assert np.bincount(labels[split.test]).tolist() == [8, 2, 1, 1]
    assert sorted([*split.train, *split.test]) == list(range(55))
    labels, half = unsplit((40, 10, 3, 2), test_share=0.5, split_seed=1)
    assert np.bincount(labels[half.test]).tolist() == [20, 5, 1, 1]


def test_a_class_of_one_image_has_no_test_image_and_is_named():
    with pytest.raises(DataError, match=r"class 4 \(e\) has no test image"):
        unsplit()


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_in_one_part_and_the_shares_are_kept_where_they_can_be(seed):
    sizes = (60, 30, 20)
    labels = np.repeat(np.arange(3), sizes)
    site = np.array([f"site {number % 20}" for number in range(len(labels))], dtype="U8")
    site[:10] = ""  # images on their own
    found, split = unsplit(sizes, site, split_seed=seed, val_per_class=5)
    assert np.array_equal(found, labels)
    parts = {name: set(site[getattr(split, name)]) - {""} for name in ("train", "val", "test")}
    assert not parts["train"] & parts["test"] and not parts["train"] & parts["val"] and not parts["val"] & parts["test"]
    test = np.bincount(labels[split.test], minlength=3)
    assert (test <= [12, 6, 4]).all() and (test >= [8, 3, 2]).all()
    assert len(set(split.train) | set(split.val) | set(split.test)) == len(labels)


def test_groups_of_one_image_each_fill_the_share_exactly():
    labels, split = unsplit((40, 10, 5), [f"g{number}" for number in range(55)])
    assert np.bincount(labels[split.test]).tolist() == [8, 2, 1]
