"""The cosine head from class means."""

import numpy as np
import pytest
import torch

from longtail.core.errors import DataError
from longtail.core.head import CenteredCosineHead
from longtail.core.seeds import derive_seed
from longtail.data.samplers import create_sampler
from longtail.methods.heads import Cosine


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def class_means(X, y):
    return unit(np.array([unit(X - X.mean(axis=0))[y == c].mean(axis=0) for c in range(10)]))


def test_training_starts_at_the_class_means(tail):
    X, y, rows, _, _ = tail
    fitted = Cosine(scale=25, lr=1e-12, select="last").fit(X, y)
    np.testing.assert_allclose(fitted.scores(rows), 25 * unit(rows - X.mean(axis=0)) @ class_means(X, y).T, atol=1e-6)


def test_published_recipe_is_sgd_on_logits_plus_log_prior(tail):
    X, y, _, _, counts = tail
    fitted = Cosine(scale=25, lr=0.02, batch_size=128, epochs=3, select="last", random_state=4).fit(X, y)
    inputs = torch.from_numpy(unit(X - X.mean(axis=0)))
    weight = torch.from_numpy(class_means(X, y)).requires_grad_()
    log_prior = torch.from_numpy(np.log(counts / counts.sum()))
    optimizer = torch.optim.SGD([weight], lr=0.02, momentum=0.9, weight_decay=5e-4)
    sampler = create_sampler("instance", y, seed=derive_seed(4, "cosine", "sampler"), epochs=3)
    steps = len(y) // 128
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + np.cos(np.pi * (epoch + 1) / 3))
        for batch in sampler.epoch(epoch, steps * 128).reshape(steps, 128):
            optimizer.zero_grad()
            logits = 25 * inputs[batch] @ torch.nn.functional.normalize(weight).T + log_prior
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(y[batch])).backward()
            optimizer.step()
    np.testing.assert_allclose(fitted.head_.weight, weight.detach().numpy(), atol=1e-10)


def test_row_at_the_center_and_zero_weights_score_zero():
    head = CenteredCosineHead(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([3.0, 4.0]), 10.0)
    np.testing.assert_array_equal(head.scores(np.array([[3.0, 4.0], [5.0, 4.0]])), [[0, 0], [10, 0]])


@pytest.mark.parametrize(
    "parts",
    [
        (np.ones((2, 3)), np.zeros(2), 1.0),
        (np.ones(3), np.zeros(3), 1.0),
        (np.ones((2, 3)), np.zeros(3), 0.0),
        (np.full((2, 3), np.nan), np.zeros(3), 1.0),
    ],
)
def test_malformed_head_is_refused(parts):
    with pytest.raises(DataError, match="center"):
        CenteredCosineHead(*parts)
