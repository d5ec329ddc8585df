"""The stage extract_features."""

from pathlib import Path

import numpy as np
import torch

from longtail.artifacts.features import read_features
from longtail.artifacts.head_files import read_head
from longtail.augment.transforms import Transform
from longtail.models.stored import load_backbone


def test_features_and_head_give_the_networks_own_logits(tmp_path, pipeline):
    pipeline("extract_features")

    from longtail.augment.transforms import normalizer
    from longtail.data.manifest import read_pixels

    backbone, head, meta, _ = load_backbone(Path("models/backbone.safetensors"), "train_backbone")
    test, stored = read_features("features/features_test.h5"), read_head("features/head.h5", "extract_features").head
    pixels = torch.from_numpy(read_pixels(Path("data/prepared"))[test.index]).permute(0, 3, 1, 2)
    images = normalizer(Transform.from_meta(meta["transform"]), torch.device("cpu"))(pixels)
    with torch.no_grad():
        features = backbone.eval()(images)
    np.testing.assert_allclose(test.features, features, atol=1e-5)
    assert (test.features >= 0).all()
    np.testing.assert_array_equal(stored.weight, head.weight)
    np.testing.assert_array_equal(stored.bias, head.bias)
