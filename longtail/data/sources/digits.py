"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels, shipped with the package, nothing to download."""

import numpy as np

from longtail.data.sources import SourceEntry
from longtail.data.sources.base import Source


def load() -> Source:
    """All 1,797 digits as one pool; the gray levels 0..16 are scaled to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    names = tuple(str(name) for name in digits.target_names)
    return Source(class_names=names, labels=labels, parts=np.full(len(labels), "pool"), images=images)


SOURCE = SourceEntry(load=lambda params, downloads: load(), reads_data_root=False, image_shape=(8, 1))
