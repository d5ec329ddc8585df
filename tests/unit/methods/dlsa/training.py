"""Data, settings and interruptions for the tests of DLSA's training."""

import numpy as np
import torch

from longtail.methods.dlsa.classifiers import RouteHead
from longtail.methods.dlsa.flow_training import Rows, train_filter
from longtail.methods.dlsa.head_training import RoutedRows, train_head
from longtail.methods.dlsa.settings import Settings
from longtail.train.checkpointing import CheckpointStore
from tests.synthetic import hierarchical_features

CLASSES = 8


def features(width, **options):
    sizes = {"classes": CLASSES, "imbalance": 20, "largest": 100, "superclasses": 3, "modes": 2}
    return hierarchical_features(0, width=width, **sizes | {"held_out": 10, "test": 10} | options)


def as_rows(data):
    return {name: Rows(torch.from_numpy(x), torch.from_numpy(y)) for name, (x, y) in data.items()}


DATA = features(16)
PARTS = as_rows(DATA)
COUNTS = np.bincount(DATA["train"][1])
FLOW = {
    "standardize": True,
    "flow_batch_size": 64,
    "flow_epochs": 6,
    "log_scale_limit": 5.0,
    "clusters": 16,
    "center_std": 0.5,
    "q": 1.0,
    "likelihood_weight": 1.0,
}


def train_flow(parts=PARTS, seed=0, store=None, **changes):
    settings = Settings(**FLOW | changes)
    found = train_filter(parts, COUNTS, settings, seed, "flow", "flow", store or CheckpointStore(), "off")
    return found.filter, found.epoch, found.rule, found.history


def same_bits(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def interrupt(monkeypatch, target, calls):
    """Let the function named ``target`` raise at its call number ``calls``, counted from 1."""
    module, _, name = target.rpartition(".")
    original = getattr(__import__(module, fromlist=[name]), name)
    seen = []

    def raising(*arguments, **options):
        seen.append(target)
        if len(seen) == calls:
            raise Interrupted
        return original(*arguments, **options)

    monkeypatch.setattr(target, raising)


def routed(data, route=None, depth=1):
    """Rows with random cluster priors; all of route 1 unless told otherwise."""
    X, y = data
    stream = np.random.default_rng(0)
    prior = stream.dirichlet(np.ones(CLASSES), 5).astype(np.float32)
    prior = torch.from_numpy(np.concatenate([prior, np.zeros((1, CLASSES), np.float32)]))
    route = np.ones(len(y), np.int64) if route is None else route
    rows = np.where(route <= depth, stream.integers(0, 5, len(y)), 5)
    return RoutedRows(*map(torch.from_numpy, (X, y, route)), prior, torch.from_numpy(rows), None)


TRAIN, JUDGES = routed(DATA["train"]), {"val": routed(DATA["val"])}
HEAD = {"epochs": 6, "eval_every": 1, "batch_size": 64, "lr": 0.02, "second_branch": "zero"}


def train_classifier(train=TRAIN, judges=JUDGES, store=None, seed=0, routes=(1,), counts=COUNTS, **changes):
    settings = Settings(**HEAD | changes)
    head = RouteHead(16, CLASSES, list(routes), 1, settings)
    head.initialize(0, None, None, settings.second_branch)
    start = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    found = train_head(head, train, counts, judges, settings, seed, "head", "head", store or CheckpointStore(), "off")
    return head, start, *found
