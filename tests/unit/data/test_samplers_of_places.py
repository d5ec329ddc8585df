"""Samplers at the size of Places-LT."""

import numpy as np
import pytest

from longtail.data.samplers import create_sampler
from longtail.data.sources.base import Source


def places_draws(places: Source, name: str, epochs: int = 1) -> tuple[np.ndarray, list[np.ndarray], object]:
    labels = places.labels[places.parts == "train"]
    sampler = create_sampler(name, labels, seed=0, epochs=10, samples_per_class=4)
    draws = 244 * 256
    return labels, [sampler.epoch(epoch, draws) for epoch in range(epochs)], sampler


def test_class_aware_sampler_on_places_is_balanced_in_classes_and_images(places):
    labels, epochs, sampler = places_draws(places, "class_aware", epochs=2)
    assert sampler.offered == 1_817_700  # type: ignore[attr-defined]
    totals = np.zeros(365, np.int64)
    for drawn in epochs:
        of_epoch = np.bincount(labels[drawn], minlength=365)
        assert of_epoch.mean() == pytest.approx(171.134, abs=1e-3)
        totals += of_epoch
        assert totals.max() - totals.min() <= 4
        blocks = labels[drawn].reshape(-1, 4)
        assert (blocks == blocks[:, :1]).all()
    usage = np.bincount(np.concatenate(epochs), minlength=len(labels))
    for label in range(365):
        of_class = usage[labels == label]
        assert of_class.max() - of_class.min() <= 1
    aligned = labels[epochs[0]][::4][: 42 * 365].reshape(42, 365)
    assert all(len(set(turn)) == 365 for turn in aligned.tolist())


def test_square_root_sampler_on_places_draws_classes_by_the_root_of_their_size(places):
    labels, (drawn,), _ = places_draws(places, "square_root")
    counts = np.bincount(labels)
    expected = np.sqrt(counts) / np.sqrt(counts).sum() * len(drawn)
    totals = np.bincount(labels[drawn], minlength=365)
    chi_square = ((totals - expected) ** 2 / expected).sum()
    assert abs(chi_square - 364) < 5 * np.sqrt(2 * 364)
    largest = np.flatnonzero(labels == counts.argmax())
    used = np.bincount(drawn, minlength=len(labels))[largest]
    assert used.max() <= 6, "images of a class are drawn alike"
