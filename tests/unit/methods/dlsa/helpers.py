"""Hierarchical rows and fast settings for the tests of DLSA."""

import numpy as np

from longtail.methods.dlsa import DLSA
from longtail.methods.heads.base import LinearHead
from longtail.methods.heads.softmax_regression import SoftmaxRegression
from tests.synthetic import hierarchical_features

CLASSES, WIDTH = 6, 10
DATA = hierarchical_features(
    0, classes=CLASSES, width=WIDTH, imbalance=10, largest=90, superclasses=2, modes=2, held_out=8, test=30
)
X, Y = DATA["train"]
VAL, TEST = DATA["val"], DATA["test"]
FAST = {"flow_epochs": 3, "epochs": 3, "eval_every": 1}
START = SoftmaxRegression(l2=1e-3).fit(X, Y).head_.on_raw()


def fitted(*parts, **settings):
    return DLSA(**FAST | {"head": START} | settings).fit(X, Y, *VAL, *parts)


COSINE = LinearHead(np.random.default_rng(0).normal(size=(CLASSES, WIDTH)).astype(np.float32), None, "cosine", 16.0)
