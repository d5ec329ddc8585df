"""Virtual similar samples: training images of one class that are blended with images of another.

The verification experiment of "Investigate the Essence of Long-Tailed Recognition" (Liu & Liu, arXiv 2107.03758): a
share of the images of a head class is made similar to a tail class, which loses accuracy although its own images stay
as they are. The procedure is that of the released code, with these differences:

- Head image j is blended with tail image j mod n_tail. The release repeats the tail images and fails unless their
  number divides that of the blends.
- The order of the random draws is that of the release: the generator that drew the split goes on, first with the
  positions of the head class, then with those of the tail class.
- Images that are files may have different sizes. The tail image is resized to the size of the head image (bicubic).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from longtail.core.errors import ConfigError
from longtail.core.params import show


def _no_rows() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Blends:
    """Which training images are blended. Labels do not change.

    Attributes:
        image, partner: (m,) int64 rows of the dataset: the head images, and the tail image that each is blended with.
        head_weight: weight of the head image, in [0, 1].
    """

    image: np.ndarray = field(default_factory=_no_rows)
    partner: np.ndarray = field(default_factory=_no_rows)
    head_weight: float = 1.0

    def __len__(self) -> int:
        return len(self.image)


def draw_blends(
    labels: np.ndarray,
    train: np.ndarray,
    head: int,
    tail: int,
    share: float,
    head_weight: float,
    rng: np.random.RandomState,
) -> Blends:
    """Draw the head images and their partners.

    Args:
        labels: (N,) labels of the whole dataset.
        train: the training rows, in the order of their selection.
        head, tail: the two classes.
        share: share of the head images that are blended; int(n_head * share) of them are.
        head_weight: see :class:`Blends`.
        rng: the generator, in the state that the split has left.
    """
    of_train = labels[train]
    heads, tails = np.flatnonzero(of_train == head), np.flatnonzero(of_train == tail)
    rng.shuffle(heads)
    rng.shuffle(tails)
    count = int(len(heads) * share)
    partners = tails[np.arange(count) % len(tails)]
    return Blends(train[heads[:count]], train[partners], head_weight)


def blend(head: np.ndarray, tail: np.ndarray, head_weight: float) -> np.ndarray:
    """head_weight * head + (1 - head_weight) * tail in float64, truncated to uint8. Both are uint8 of one shape."""
    return (head_weight * head.astype(np.float64) + (1 - head_weight) * tail.astype(np.float64)).astype(np.uint8)


def blend_pixels(pixels: np.ndarray, blends: Blends) -> np.ndarray:
    """Put the blended images into their rows of ``pixels`` (N, H, W, channels) uint8, in place. Returns ``pixels``."""
    if len(blends):
        pixels[blends.image] = blend(pixels[blends.image], pixels[blends.partner], blends.head_weight)
    return pixels


def blend_pictures(head: Image.Image, tail: Image.Image, head_weight: float) -> Image.Image:
    """The same for two RGB pictures. The tail picture is resized to the size of the other."""
    fitted = tail if tail.size == head.size else tail.resize(head.size, Image.Resampling.BICUBIC)
    return Image.fromarray(blend(np.asarray(head), np.asarray(fitted), head_weight))


def find_class(given: int | str, class_names: Sequence[str], key: str) -> int:
    """The label of a class that is given by its name or, if no class has that name, by its label.

    Raises:
        ConfigError: names ``key``.
    """
    if str(given) in class_names:
        return class_names.index(str(given))
    number = int(given) if str(given).isdecimal() else -1
    if not 0 <= number < len(class_names):
        some = ", ".join(class_names[:5]) + (", ..." if len(class_names) > 5 else "")
        raise ConfigError(
            f"{key} must be the name of a class ({some}) or a label up to {len(class_names) - 1}, got {show(given)}"
        )
    return number
