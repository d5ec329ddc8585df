"""The digits of scikit-learn."""

import numpy as np

from longtail.data.sources import digits
from longtail.data.splits import make_split


def test_digits_are_scikit_learns_as_one_pool():
    source = digits.load()
    assert source.images.shape == (1797, 8, 8, 1)
    assert source.images.dtype == np.uint8
    assert (source.images.min(), source.images.max()) == (0, 255)
    assert np.bincount(source.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert source.class_names == tuple("0123456789")
    assert set(source.parts) == {"pool"}


def test_digits_split_has_the_documented_sizes():
    source = digits.load()
    split = make_split(
        source.labels,
        source.parts,
        source.class_names,
        imb_type="exp",
        imb_factor=100,
        val_per_class=10,
        split_seed=0,
    )
    assert (len(split.test), len(split.val)) == (400, 100)
    assert np.bincount(source.labels[split.train]).tolist() == [int(124 * 0.01 ** (k / 9)) for k in range(10)]
