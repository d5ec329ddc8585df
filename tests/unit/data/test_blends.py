"""Virtual similar samples: worked numbers of the specification, and the order of the random draws."""

import numpy as np
import pytest
from PIL import Image

from longtail.core.errors import ConfigError
from longtail.data.blends import Blends, blend, blend_pictures, blend_pixels, draw_blends, find_class
from longtail.data.params import SimilarParams
from longtail.data.splits import make_split

NAMES = tuple("abcdefghij")
LABELS = np.repeat(np.arange(10), 6000)
PARTS = np.tile(np.repeat(["train", "test"], [5000, 1000]), 10)
CIFAR10_LT = {"imb_type": "exp", "imb_factor": 100, "val_per_class": 0}


def split(share: float = 0.1, head=0, tail=9, seed: int = 0, **changes):
    similar = SimilarParams(head=head, tail=tail, share=share, head_weight=0.2)
    return make_split(LABELS, PARTS, NAMES, **CIFAR10_LT | changes, split_seed=seed, similar=similar)


def test_blend_is_truncated_not_rounded():
    assert blend(np.uint8([200, 255]), np.uint8([31, 1]), 0.2).tolist() == [64, 51]


def test_a_tenth_of_the_head_of_cifar10_lt_is_blended_and_nothing_else_changes():
    found, plain = split(0.1), make_split(LABELS, PARTS, NAMES, **CIFAR10_LT, split_seed=0)
    assert np.array_equal(found.train, plain.train) and len(found.train) == 12406
    assert len(found.blends) == 500 and len(set(found.blends.image)) == 500
    assert set(LABELS[found.blends.image]) == {0} and set(LABELS[found.blends.partner]) == {9}
    assert set(found.blends.image) <= set(found.train)
    assert np.unique(found.blends.partner, return_counts=True)[1].tolist() == [10] * 50


def test_draws_are_those_of_the_released_code_after_its_split():
    """A plain repetition of its steps, with NumPy's global generator."""
    np.random.seed(3)
    train = np.flatnonzero(PARTS == "train")
    rows = []
    for label in range(10):
        members = train[LABELS[train] == label]
        np.random.shuffle(members)
        rows.append(members[: int(5000 * 0.01 ** (label / 9.0))])
    rows = np.concatenate(rows)
    heads = np.where(LABELS[rows] == 0)[0]
    np.random.shuffle(heads)
    tails = np.where(LABELS[rows] == 9)[0]
    np.random.shuffle(tails)
    wanted = [(rows[heads[j]], rows[tails[j % 50]]) for j in range(int(5000 * 0.5))]
    found = split(0.5, seed=3).blends
    assert list(zip(found.image, found.partner, strict=True)) == wanted


def test_partners_repeat_where_their_number_does_not_divide_that_of_the_blends():
    labels, train = np.repeat([0, 1], [10, 3]), np.arange(13)
    found = draw_blends(labels, train, 0, 1, 0.75, 0.2, np.random.RandomState(0))
    assert len(found) == 7 and found.partner[:3].tolist() == found.partner[3:6].tolist()
    assert found.partner[6] == found.partner[0] and set(found.partner[:3]) == {10, 11, 12}


def test_only_the_rows_of_blended_pixels_change():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    found = blend_pixels(pixels.copy(), Blends(np.array([1, 2]), np.array([5, 4]), 0.2))
    assert np.array_equal(found[[0, 3, 4, 5]], pixels[[0, 3, 4, 5]])
    assert np.array_equal(found[1], (0.2 * pixels[1].astype(float) + 0.8 * pixels[5]).astype(np.uint8))
    assert np.array_equal(blend_pixels(pixels.copy(), Blends()), pixels)


def test_head_weight_1_changes_nothing_and_0_copies_the_tail():
    one, two = (Image.fromarray(np.full((3, 3, 3), value, np.uint8)) for value in (77, 200))
    assert np.asarray(blend_pictures(one, two, 1.0)).max() == 77
    assert np.asarray(blend_pictures(one, two, 0.0)).min() == 200


def test_a_tail_picture_of_another_size_is_fitted_to_the_head():
    small, large = Image.new("RGB", (8, 6), (100, 0, 0)), Image.new("RGB", (30, 20), (0, 200, 0))
    found = blend_pictures(small, large, 0.5)
    assert found.size == (8, 6) and found.getpixel((4, 3)) == (50, 100, 0)


def test_classes_are_names_before_labels():
    assert find_class("cat", ("dog", "cat"), "similar.head") == 1
    assert find_class(0, ("dog", "cat"), "similar.head") == 0
    assert find_class(1, ("1", "0"), "similar.head") == 0  # a class of that name
    with pytest.raises(ConfigError, match=r"similar\.tail must be the name of a class \(dog, cat\) or a label up to 1"):
        find_class(2, ("dog", "cat"), "similar.tail")


def test_the_same_class_twice_is_refused():
    with pytest.raises(ConfigError, match=r"similar\.tail must be another class than similar\.head, got a"):
        split(head=0, tail="a")
