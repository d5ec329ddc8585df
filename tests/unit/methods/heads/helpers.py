"""Rows and heads that the tests of several heads share."""

import numpy as np
import torch

from longtail.core.seeds import derive_seed
from longtail.data.samplers import create_sampler

RELEASED = {"lr": 0.2, "weight_decay": 5e-4, "select": "last"}  # of the official ImageNet-LT configuration
W = np.array([[3.0, 4.0], [0.0, 2.0], [1.2, -0.5]])
B = np.array([0.5, 0.0, -1.0])
X = np.array([[0.2, 1.0], [1.0, 0.1], [0.1, 0.35], [1.0, -1.0]])
Y = np.array([0, 1, 2, 0])


def long_tail(seed):
    """Ten Gaussian classes in 16 dimensions, 400 to 5 training rows, 200 test rows each."""
    stream = np.random.default_rng(seed)
    counts = np.round(400 * (1 / 80) ** (np.arange(10) / 9)).astype(int)
    centers = 3.0 * np.linalg.qr(stream.normal(size=(16, 16)))[0][:10]
    y, y_test = np.repeat(np.arange(10), counts), np.repeat(np.arange(10), 200)
    rows, rows_test = (centers[k] + stream.normal(size=(len(k), 16)) for k in (y, y_test))
    return rows, y, rows_test, y_test, counts


def reference_training(parameters, logits, method, y, epochs, batch_size, seed):
    """The official recipe by torch's own autograd and SGD."""
    optimizer = torch.optim.SGD(parameters, lr=0.2, momentum=0.9, weight_decay=5e-4)
    sampler = create_sampler("class_aware", y, seed=derive_seed(seed, method, "sampler"), epochs=epochs)
    steps = len(y) // batch_size
    losses = []
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + np.cos(np.pi * (epoch + 1) / epochs))
        batches = sampler.epoch(epoch, steps * batch_size).reshape(steps, batch_size)
        losses.append(0.0)
        for batch in batches:
            loss = torch.nn.functional.cross_entropy(logits(batch), torch.from_numpy(y[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item() / steps
    return losses
