"""Label over-smoothing."""

import numpy as np
import torch

from longtail.core.seeds import derive_seed
from longtail.data.samplers import create_sampler
from longtail.methods.heads import LOS


def test_published_recipe_is_sgd_on_smoothed_targets_and_raw_features(tail):
    X, y = tail[0] + 3.0, tail[1]
    recipe = {"class_weights": "none", "features": "raw", "lr": 5e-4, "batch_size": 64, "select": "last"}
    fitted = LOS(epochs=3, random_state=4, **recipe).fit(X, y)
    layer = torch.nn.Linear(16, 10).double()
    torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=5e-4, momentum=0.9)
    sampler = create_sampler("instance", y, seed=derive_seed(4, "los", "sampler"), epochs=3)
    steps = len(y) // 64
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 2.5e-4 * (1 + np.cos(np.pi * (epoch + 1) / 3))
        for batch in sampler.epoch(epoch, steps * 64).reshape(steps, 64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(
                layer(torch.from_numpy(X[batch])), torch.from_numpy(y[batch]), label_smoothing=0.98
            ).backward()
            optimizer.step()
    np.testing.assert_allclose(fitted.weight_, layer.weight.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(fitted.bias_, layer.bias.detach().numpy(), atol=1e-12)


def test_smoothing_keeps_logits_small(tail):
    X, y = tail[:2]
    over, plain = (np.ptp(LOS(smoothing=s, select="last").fit(X, y).scores(X), axis=1).mean() for s in (0.98, 0.0))
    assert over < 0.5 < 2 < plain


def test_class_weights_recover_small_classes(tail):
    X, y, rows, labels, _ = tail
    small = labels >= 7
    inverse, none = (LOS(class_weights=w).fit(X, y).predict(rows[small]) for w in ("inverse", "none"))
    assert np.mean(inverse == labels[small]) > np.mean(none == labels[small]) + 0.1
