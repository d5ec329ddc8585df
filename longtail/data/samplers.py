"""Which training images an epoch draws: instance-balanced, class-aware, square-root and progressively balanced.

Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, section 4.1, and
its official code, which is followed where the two differ (progressive mixing starts at pure instance balance; class
balance is cyclic and takes ``samples_per_class`` images a turn).

Deviation: the reference keeps mutable list positions and the global random state. Here every wrap of every cyclic list
is a named random stream, so an epoch is a function of (seed, epoch, draws) alone: epochs can be asked for in any order,
and resuming needs no sampler state. Positions carry over from epoch to epoch as in the reference, on the premise that
every epoch asks for the same number of draws.
"""

from typing import Protocol

import numpy as np

from longtail.core.errors import ConfigError, DataError
from longtail.core.seeds import derive_seed, generator
from longtail.data.effective_number import BETA, effective_number


class Order(Protocol):
    """What a training loop asks of a sampler."""

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        """(draws,) int64: positions of the images for this 0-based epoch, in order."""
        ...


class Sampler(Order, Protocol):
    """The common interface of the samplers by class. N images, C classes."""

    @property
    def offered(self) -> int:
        """Draws that the reference sampler offers per epoch; a training loop takes floor(N/B)*B of them."""
        ...

    def class_probability(self, epoch: int) -> np.ndarray:
        """(C,) float64: the expected share of each class in the draws of this 0-based epoch."""
        ...


class _LabelledImages:
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
        """Image number ``number[i]`` (0-based, counted since the start of training) of the list of ``classes[i]``.

        Each class has an endless list: its images shuffled, then shuffled again, and so on; every image is used once
        per wrap. All arrays (M,) int64.
        """
        wrap, place = np.divmod(number, self.counts[classes])
        shuffled = _shuffled_places(derive_seed(self.seed, "class list"), classes, wrap, self.counts[classes], place)
        return self._members[self._first[classes] + shuffled]


class InstanceSampler(_LabelledImages):
    """Instance-balanced: a fresh permutation of all N images each epoch, without replacement."""

    def __init__(self, labels: np.ndarray, *, seed: int, epochs: int, samples_per_class: int = 4) -> None:
        super().__init__(labels, seed)

    @property
    def offered(self) -> int:
        return self.num_images

    def class_probability(self, epoch: int) -> np.ndarray:
        return self.counts / self.num_images

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        """(draws,) int64. Raises DataError where draws > N, which no permutation can give."""
        assert epoch >= 0 and draws >= 1
        if draws > self.num_images:
            raise DataError(
                f"the instance sampler draws without replacement: {draws} draws were asked of {self.num_images} images"
            )
        return generator(self.seed, "instance", epoch).permutation(self.num_images)[:draws].astype(np.int64, copy=False)


class FixedOrder:
    """The order of epoch 0 in every epoch, which the released BNS pretraining has when it runs in one process."""

    def __init__(self, sampler: Order) -> None:
        self._sampler = sampler

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        return self._sampler.epoch(0, draws)


class ClassAwareSampler(_LabelledImages):
    """Class-balanced: cyclic shuffled class list, ``samples_per_class`` images of each class turn's cyclic list.

    Every aligned block of ``samples_per_class`` draws is one class, every aligned run of C blocks holds each class
    once, and within a class no image is ever used twice more than another. A class with fewer images than
    ``samples_per_class`` repeats some inside one block. An epoch starts a new block; the rest of a cut one is lost.
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
        turn, place = np.divmod(block, num_classes)  # every turn of the class list gives each class one block
        of_all_classes = np.full_like(place, num_classes)
        class_of_block = _shuffled_places(
            derive_seed(self.seed, "classes"), np.zeros_like(turn), turn, of_all_classes, place
        )
        number = (turn[:, None] * k + np.arange(k, dtype=np.int64)).ravel()[:draws]
        return self.from_cyclic_lists(np.repeat(class_of_block, k)[:draws], number)


class PowerSampler(_LabelledImages):
    """Independent draws over images with weight n_c^(-exponent), hence class probability ~ n_c^(1 - exponent).

    ``exponent`` 0 keeps the distribution of the images and 1 balances the classes. ``stream`` names its random numbers.
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
        """(N,) float64: the probability of each image in one draw."""
        return (self.class_probability(0) / self.counts)[self._class_of_image]

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        assert epoch >= 0 and draws >= 1
        return _draw(self.image_probability(), generator(self.seed, self._stream, epoch), draws)


class SquareRootSampler(PowerSampler):
    """Square-root: weight n_c^(-1/2), hence class probability ~ sqrt(n_c)."""

    def __init__(self, labels: np.ndarray, *, seed: int, epochs: int, samples_per_class: int = 4) -> None:
        super().__init__(labels, seed=seed, exponent=0.5, stream="square root")


class ProgressiveSampler(_LabelledImages):
    """Progressively balanced: epoch t of T (1-based) draws class c with (1-l) n_c/N + l/C, l = (t-1)/(T-1).

    So the first epoch is instance-balanced and the last class-balanced; T = 1 stays instance-balanced. (The paper
    writes t/T; the published numbers come from the code.) The image is the next of the class's cyclic shuffled list.
    """

    def __init__(self, labels: np.ndarray, *, seed: int, epochs: int, samples_per_class: int = 4) -> None:
        super().__init__(labels, seed)
        if epochs < 1:
            raise ConfigError(f"the progressive sampler needs epochs >= 1, got {epochs}")
        self.epochs = epochs
        self._used: dict[tuple[int, int], np.ndarray] = {}  # (draws, epoch) -> images used of each class before it

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


class EffectiveNumberSampler(_LabelledImages):
    """The rule ``resample`` of Cao et al. 2019: independent draws over images with weight 1 / E_k of their class.

    Nearly class-balanced: class probability ~ n_k / E_k, with the effective number E_k of Cui et al. 2019.
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
        of_image = (self._share / self.counts)[self._class_of_image]
        return _draw(of_image, generator(self.seed, "effective number", epoch), draws)


SAMPLERS: dict[str, type[InstanceSampler | ClassAwareSampler | SquareRootSampler | ProgressiveSampler]] = {
    "instance": InstanceSampler,
    "class_aware": ClassAwareSampler,
    "square_root": SquareRootSampler,
    "progressive": ProgressiveSampler,
}


def _shuffled_places(
    seed: int, lists: np.ndarray, wraps: np.ndarray, sizes: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Where place ``places[i]`` of list ``lists[i]`` leads in its shuffle number ``wraps[i]``.

    Every (list, wrap) has a shuffle of its own 0..size-1: the order of its counter-based random keys. All shuffles that
    are asked for come from one sort. All arrays (M,) int64.
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
    """64 random-looking bits for each uint64 counter: the SplitMix64 generator (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        bits = counter * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))


def create_sampler(name: str, labels: np.ndarray, *, seed: int, epochs: int, samples_per_class: int = 4) -> Sampler:
    """The sampler called ``name``: "instance", "class_aware", "square_root" or "progressive".

    labels: (N,) integers, exactly 0..C-1, every class present. ``epochs`` is the length of the progressive schedule;
    ``samples_per_class`` the images that the class-aware sampler takes each time a class has its turn.
    Raises ConfigError for an unknown name, DataError for unusable labels.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"unknown sampler {name!r}; allowed: {', '.join(SAMPLERS)}")
    return SAMPLERS[name](labels, seed=seed, epochs=epochs, samples_per_class=samples_per_class)


def _draw(probability: np.ndarray, stream: np.random.Generator, draws: int) -> np.ndarray:
    """(draws,) int64: independent draws with replacement from ``probability`` (K,)."""
    edges = np.cumsum(probability)
    edges /= edges[-1]
    return np.searchsorted(edges, stream.random(draws), side="right").astype(np.int64, copy=False)


def _class_counts(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0:
        raise DataError(f"labels must be a non-empty 1-D array, got shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels must be integers 0..C-1, got dtype {labels.dtype}")
    if labels.min() < 0:
        raise DataError(f"labels must be 0..C-1, got {labels.min()}")
    counts = np.bincount(labels).astype(np.int64, copy=False)
    if (counts == 0).any():
        raise DataError(f"labels must be 0..{len(counts) - 1} without gaps; class {np.argmin(counts)} has no image")
    return counts
