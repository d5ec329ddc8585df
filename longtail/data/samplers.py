"""Which training images an epoch draws: instance-balanced, class-aware, square-root and progressively balanced.

Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, section 4.1, and
its official code. Where the two differ, this module follows the code: progressive mixing starts at pure instance
balance, and class balance is cyclic and takes ``samples_per_class`` images per turn.

Deviation: the reference code keeps mutable list positions and uses the global random state. Here each pass over a
cyclic list has its own named random stream, so an epoch depends only on (seed, epoch, draws). Epochs can be requested
in any order, and resuming needs no sampler state. As in the reference, list positions carry over from epoch to epoch.
This assumes that every epoch requests the same number of draws.
"""

from typing import Protocol

import numpy as np

from longtail.core.errors import ConfigError, DataError
from longtail.core.seeds import derive_seed, generator
from longtail.data.effective_number import BETA, effective_number


class Order(Protocol):
    """The sampler interface that a training loop needs."""

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        """Return the positions of the images to draw in this 0-based epoch, in order, (draws,) int64."""
        ...


class Sampler(Order, Protocol):
    """The common interface of the class samplers. N images, C classes."""

    @property
    def offered(self) -> int:
        """Number of draws per epoch in the reference sampler. A training loop uses floor(N/B)*B of them."""
        ...

    def class_probability(self, epoch: int) -> np.ndarray:
        """Return the expected share of each class in the draws of this 0-based epoch, (C,) float64."""
        ...


class _LabeledImages:
    """Image positions grouped by class.

    labels: (N,) integers, exactly 0..C-1, every class present.
    """

    def __init__(self, labels: np.ndarray, seed: int) -> None:
        self.seed = int(seed)
        self.counts = _class_counts(labels)
        self.num_images = int(self.counts.sum())
        self.num_classes = len(self.counts)
        self._members = np.argsort(labels, kind="stable").astype(np.int64)
        self._first = np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    def from_cyclic_lists(self, classes: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Return image number ``number[i]`` of the list of class ``classes[i]``.

        Numbers are 0-based and count from the start of training. Each class has an endless list that goes through its
        images in a new random order on each pass. All arrays are (M,) int64.
        """
        wrap, place = np.divmod(number, self.counts[classes])
        shuffled = _shuffled_places(derive_seed(self.seed, "class list"), classes, wrap, self.counts[classes], place)
        return self._members[self._first[classes] + shuffled]


class InstanceSampler(_LabeledImages):
    """Instance-balanced: a fresh permutation of all N images each epoch, without replacement."""

    def __init__(self, labels: np.ndarray, *, seed: int, epochs: int, samples_per_class: int = 4) -> None:
        super().__init__(labels, seed)

    @property
    def offered(self) -> int:
        return self.num_images

    def class_probability(self, epoch: int) -> np.ndarray:
        return self.counts / self.num_images

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        """Return (draws,) int64 positions. Raises DataError if draws > N, because draws are without replacement."""
        assert epoch >= 0 and draws >= 1
        if draws > self.num_images:
            raise DataError(
                f"draws must be at most {self.num_images}, the number of images, for the instance sampler, got {draws}"
            )
        return generator(self.seed, "instance", epoch).permutation(self.num_images)[:draws].astype(np.int64, copy=False)


class FixedOrder:
    """Use the order of epoch 0 in every epoch, as the released BNS pretraining does when it runs in one process."""

    def __init__(self, sampler: Order) -> None:
        self._sampler = sampler

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        return self._sampler.epoch(0, draws)


class ClassAwareSampler(_LabeledImages):
    """Class-balanced: a shuffled cyclic list of classes, each with a shuffled cyclic list of images.

    - Each turn of a class draws a block of ``samples_per_class`` images from its list.
    - Each pass over the class list gives every class one block.
    - Within a class, no image is ever used two times more often than another.
    - A class with fewer than ``samples_per_class`` images repeats some of them within a block.
    - Each epoch starts a new block. A truncated block is discarded.
    """

    def __init__(self, labels: np.ndarray, *, seed: int, epochs: int, samples_per_class: int = 4) -> None:
        super().__init__(labels, seed)
        if samples_per_class < 1:
            raise ConfigError(f"samples_per_class must be at least 1, got {samples_per_class}")
        self.samples_per_class = samples_per_class

    @property
    def offered(self) -> int:
        return int(self.counts.max()) * self.num_classes

    def class_probability(self, epoch: int) -> np.ndarray:
        return np.full(self.num_classes, 1.0 / self.num_classes)

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        assert epoch >= 0 and draws >= 1
        k, num_classes = self.samples_per_class, self.num_classes
        blocks_per_epoch = -(-draws // k)
        block = epoch * blocks_per_epoch + np.arange(blocks_per_epoch, dtype=np.int64)
        turn, place = np.divmod(block, num_classes)  # each turn of the class list gives every class one block
        list_sizes = np.full_like(place, num_classes)
        class_of_block = _shuffled_places(
            derive_seed(self.seed, "classes"), np.zeros_like(turn), turn, list_sizes, place
        )
        number = (turn[:, None] * k + np.arange(k, dtype=np.int64)).ravel()[:draws]
        return self.from_cyclic_lists(np.repeat(class_of_block, k)[:draws], number)


class PowerSampler(_LabeledImages):
    """Independent draws of images with weight n_c^(-exponent), so the class probability is ~ n_c^(1 - exponent).

    ``exponent`` = 0 keeps the class distribution of the images, and 1 balances the classes. ``stream`` names the random
    stream.
    """

    def __init__(self, labels: np.ndarray, *, seed: int, exponent: float, stream: str = "power") -> None:
        super().__init__(labels, seed)
        self.exponent, self._stream = exponent, stream
        self._class_of_image = np.asarray(labels, dtype=np.int64)

    @property
    def offered(self) -> int:
        return self.num_images

    def class_probability(self, epoch: int) -> np.ndarray:
        power = self.counts ** (1.0 - self.exponent)
        return power / power.sum()

    def image_probability(self) -> np.ndarray:
        """Return the probability of each image in a single draw, (N,) float64."""
        return (self.class_probability(0) / self.counts)[self._class_of_image]

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        assert epoch >= 0 and draws >= 1
        return _draw(self.image_probability(), generator(self.seed, self._stream, epoch), draws)


class SquareRootSampler(PowerSampler):
    """Square-root: weight n_c^(-1/2), so the class probability is ~ sqrt(n_c)."""

    def __init__(self, labels: np.ndarray, *, seed: int, epochs: int, samples_per_class: int = 4) -> None:
        super().__init__(labels, seed=seed, exponent=0.5, stream="square root")


class ProgressiveSampler(_LabeledImages):
    """Progressively balanced: epoch t of T (1-based) draws class c with probability (1-l) n_c/N + l/C, l = (t-1)/(T-1).

    The first epoch is instance-balanced and the last one class-balanced. With T = 1, training is instance-balanced.
    (The paper has l = t/T, but the published numbers come from the code.) The image is the next one in the class's
    shuffled cyclic list.
    """

    def __init__(self, labels: np.ndarray, *, seed: int, epochs: int, samples_per_class: int = 4) -> None:
        super().__init__(labels, seed)
        if epochs < 1:
            raise ConfigError(f"epochs must be at least 1 for the progressive sampler, got {epochs}")
        self.epochs = epochs
        self._used: dict[tuple[int, int], np.ndarray] = {}  # (draws, epoch) -> images of each class used before it

    @property
    def offered(self) -> int:
        return self.num_images

    def class_probability(self, epoch: int) -> np.ndarray:
        assert 0 <= epoch < self.epochs, f"epoch {epoch} of {self.epochs}"
        balance = epoch / (self.epochs - 1) if self.epochs > 1 else 0.0
        return (1.0 - balance) * self.counts / self.num_images + balance / self.num_classes

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        classes = self._classes(epoch, draws)
        order = np.argsort(classes, kind="stable")
        drawn = np.bincount(classes, minlength=self.num_classes)
        rank = np.empty(draws, dtype=np.int64)
        rank[order] = np.arange(draws) - np.repeat(np.cumsum(drawn) - drawn, drawn)
        return self.from_cyclic_lists(classes, self._used_before(epoch, draws)[classes] + rank)

    def _classes(self, epoch: int, draws: int) -> np.ndarray:
        return _draw(self.class_probability(epoch), generator(self.seed, "progressive", epoch), draws)

    def _used_before(self, epoch: int, draws: int) -> np.ndarray:
        used = np.zeros(self.num_classes, dtype=np.int64)
        for e in range(epoch):
            key = (draws, e + 1)
            if key not in self._used:
                self._used[key] = used + np.bincount(self._classes(e, draws), minlength=self.num_classes)
            used = self._used[key]
        return used


class EffectiveNumberSampler(_LabeledImages):
    """The rule ``resample`` of Cao et al. 2019: independent draws of images with weight 1 / E_k for class k.

    E_k is the effective number of Cui et al. 2019. The class probability is ~ n_k / E_k, which is nearly balanced.
    """

    def __init__(self, labels: np.ndarray, *, seed: int, beta: float = BETA) -> None:
        super().__init__(labels, seed)
        self._share = self.counts / effective_number(self.counts, beta)
        self._share /= self._share.sum()
        self._class_of_image = np.asarray(labels, dtype=np.int64)

    @property
    def offered(self) -> int:
        return self.num_images

    def class_probability(self, epoch: int) -> np.ndarray:
        return self._share

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        assert epoch >= 0 and draws >= 1
        image_probability = (self._share / self.counts)[self._class_of_image]
        return _draw(image_probability, generator(self.seed, "effective number", epoch), draws)


SAMPLERS: dict[str, type[InstanceSampler | ClassAwareSampler | SquareRootSampler | ProgressiveSampler]] = {
    "instance": InstanceSampler,
    "class_aware": ClassAwareSampler,
    "square_root": SquareRootSampler,
    "progressive": ProgressiveSampler,
}


def _shuffled_places(
    seed: int, lists: np.ndarray, wraps: np.ndarray, sizes: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Return the element at place ``places[i]`` of list ``lists[i]`` in its shuffle number ``wraps[i]``.

    Each (list, wrap) has its own shuffle of 0..size-1, which is the order of counter-based random keys. One sort
    produces all requested shuffles. All arrays are (M,) int64.
    """
    span = int(wraps.max()) + 1
    shuffles, which = np.unique(lists * span + wraps, return_inverse=True)
    size = np.empty(len(shuffles), dtype=np.int64)
    size[which] = sizes
    first = np.cumsum(size) - size
    shuffle_of = np.repeat(np.arange(len(shuffles)), size)
    place_of = np.arange(len(shuffle_of)) - first[shuffle_of]
    stream = _mixed(
        _mixed(np.uint64(seed) + (shuffles // span).astype(np.uint64)) + (shuffles % span).astype(np.uint64)
    )
    keys = _mixed(stream[shuffle_of] + place_of.astype(np.uint64))
    order = place_of[np.lexsort((keys, shuffle_of))]
    return order[first[which] + places]


def _mixed(counter: np.ndarray) -> np.ndarray:
    """Map each uint64 counter to 64 pseudorandom bits with the SplitMix64 generator (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        bits = counter * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))


def create_sampler(name: str, labels: np.ndarray, *, seed: int, epochs: int, samples_per_class: int = 4) -> Sampler:
    """Create a sampler by name.

    Args:
        name: "instance", "class_aware", "square_root" or "progressive".
        labels: (N,) integers, exactly 0..C-1, every class present.
        seed: seeds all random streams.
        epochs: length of the progressive schedule.
        samples_per_class: images that the class-aware sampler draws per turn of a class.

    Raises:
        ConfigError: an unknown name, or an invalid ``epochs`` or ``samples_per_class``.
        DataError: invalid labels.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    return SAMPLERS[name](labels, seed=seed, epochs=epochs, samples_per_class=samples_per_class)


def _draw(probability: np.ndarray, stream: np.random.Generator, draws: int) -> np.ndarray:
    """Draw independently with replacement from ``probability`` (K,). Returns (draws,) int64."""
    edges = np.cumsum(probability)
    edges /= edges[-1]
    return np.searchsorted(edges, stream.random(draws), side="right").astype(np.int64, copy=False)


def _class_counts(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0:
        raise DataError(f"labels must be a nonempty 1-D array, got shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels must be integers 0..C-1, got dtype {labels.dtype}")
    if labels.min() < 0:
        raise DataError(f"labels must be 0..C-1, got {labels.min()}")
    counts = np.bincount(labels).astype(np.int64, copy=False)
    if (counts == 0).any():
        raise DataError(f"labels must be 0..{len(counts) - 1} without gaps, got no image of class {np.argmin(counts)}")
    return counts
