"""The heads that warm starts begin from, and what they become on standardized features."""

import numpy as np
import pytest
import torch

from longtail.core.head import LinearHead, StandardizedHead
from longtail.methods.dlsa.filter import moments
from longtail.methods.dlsa.start import base_head, on_standardized
from tests.unit.methods.dlsa.helpers import CLASSES, COSINE, START, VAL, WIDTH, X, Y

HEADS = {
    "linear": START,
    "without bias": LinearHead(START.weight),
    "standardized": base_head(X, Y, l2=0.01),
    "cosine": COSINE,
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("standardized", [False, True])
def test_head_on_standardized_features_gives_the_same_scores(kind, standardized):
    head = HEADS[kind]
    rows, offset_and_scale = X.astype(np.float64), None
    inputs = rows / np.linalg.norm(rows, axis=1, keepdims=True) if head.unit_input else rows
    if standardized and not head.unit_input:
        offset_and_scale = moments(torch.from_numpy(rows))
        inputs = (rows - offset_and_scale[0].numpy()) / offset_and_scale[1].numpy()
    weight, bias = on_standardized(head, offset_and_scale)
    assert (weight.shape, bias.shape) == ((CLASSES, WIDTH), (CLASSES,))
    np.testing.assert_allclose(inputs @ weight.T + bias, head.scores(rows), atol=1e-4)


def test_bias_keeps_its_precision_far_from_the_origin():
    """The products of weight and center are large and cancel, which float32 would not survive."""
    far = (X + 1e4).astype(np.float32)
    head = base_head(far, Y, l2=0.01)
    offset, scale = moments(torch.from_numpy(far))
    weight, bias = on_standardized(head, (offset, scale))
    inputs = (far - offset.numpy()) / scale.numpy()
    np.testing.assert_allclose(inputs @ weight.T + bias, head.scores(far), atol=0.02)


def test_base_head_is_balanced_and_takes_its_strength_from_val():
    head = base_head(X, Y, VAL)
    assert isinstance(head, StandardizedHead)
    assert head.prior == "uniform"
    assert base_head(X, Y, prior="train", l2=head.l2).prior == "train"
    again = base_head(X, Y, l2=head.l2)
    assert (again.scores(X).argmax(axis=1) == head.scores(X).argmax(axis=1)).mean() > 0.98
