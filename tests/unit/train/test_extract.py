"""Outputs without gradient: the size of their batches, their order, and what they leave as it was."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from longtail.augment.transforms import Transform
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.train.batches import FeatureRows, MemoryImages, PathImages
from longtail.train.extract import FeatureExtractor, evaluating, evaluation_batch, outputs
from longtail.train.network import accuracy

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("side", "size"), [(1, 512), (8, 512), (32, 512), (64, 512), (65, 496), (128, 128), (224, 41), (3000, 1)]
)
def test_batch_is_512_up_to_64_by_64_pixels_and_smaller_above(side, size):
    assert evaluation_batch(SimpleNamespace(pixels=side**2)) == size


def test_image_sets_count_the_pixels_of_an_image():
    pixels, labels = np.zeros((3, 8, 8, 3), np.uint8), np.zeros(3, np.int64)
    for side in (8, 12):
        transform = Transform("none", (0.4,) * 3, (0.2,) * 3, side)
        assert MemoryImages(pixels, labels, transform, CPU).pixels == side**2
    rows = FeatureRows(np.zeros((3, 900), np.float32), labels, CPU)
    assert evaluation_batch(rows) == 512


def test_outputs_are_in_order_in_batches_of_the_evaluation(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(1200, 5)).astype(np.float32)
    module, sizes = torch.nn.Linear(5, 2), []
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = outputs(module, FeatureRows(rows, np.zeros(1200, np.int64), CPU), 2, "logits", "off")
    assert sizes == [512, 512, 176] and found.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_allclose(found, module(torch.from_numpy(rows)).numpy(), rtol=1e-5, atol=1e-6)


def test_evaluating_restores_the_mode_of_each_module_after_an_error_too():
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    module[0].eval()
    with pytest.raises(KeyboardInterrupt), evaluating(module):
        assert not any(part.training for part in module.modules())
        raise KeyboardInterrupt
    assert [part.training for part in module.modules()] == [True, False, True]


def images(side: int, count: int = 3) -> MemoryImages:
    pixels = np.random.default_rng(0).integers(0, 255, (count, side, side, 3)).astype(np.uint8)
    return MemoryImages(pixels, np.arange(count) % 2, Transform("none", (0.4,) * 3, (0.2,) * 3, side), CPU)


def test_evaluation_batch_of_files_follows_the_size_they_are_read_in(tmp_path):
    names, labels = np.array(["a.png"]), np.zeros(1, np.int64)
    files = PathImages(tmp_path, names, names, labels, Transform("none", (0.4,) * 3, (0.2,) * 3, 224), CPU, 0)
    assert evaluation_batch(files) == 41


def test_features_and_accuracy_are_computed_in_such_batches_and_do_not_depend_on_them(monkeypatch):
    torch.manual_seed(0)
    backbone = create_backbone("resnet8", in_channels=3, width=4)
    model = Classifier(backbone, torch.nn.Linear(16, 2))
    data = images(8, count=20)
    features, right = outputs(backbone, data, 16, "features", "off"), accuracy(model, data, CPU)
    monkeypatch.setattr("longtail.train.extract.BATCH_PIXELS", 7 * 8 * 8)
    sizes, original = [], MemoryImages.eval_batches

    def spy(self, batch_size):
        sizes.append(batch_size)
        return original(self, batch_size)

    monkeypatch.setattr(MemoryImages, "eval_batches", spy)
    np.testing.assert_allclose(outputs(backbone, data, 16, "features", "off"), features, rtol=1e-5, atol=1e-6)
    assert accuracy(model, data, CPU) == right
    assert sizes == [7, 7]


@pytest.mark.parametrize("side", [8, 80])
def test_features_are_those_of_the_plain_order_and_large_images_come_in_small_batches(side):
    torch.manual_seed(0)
    backbone = create_backbone("resnet8", in_channels=3).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (90, side, side, 3), np.uint8)
    images = MemoryImages(pixels, np.zeros(90, np.int64), Transform("none", (0.4,) * 3, (0.2,) * 3, side), CPU)
    expected = outputs(backbone, images, 64, "features", "off")
    sizes = []
    backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = FeatureExtractor(backbone, 3, CPU, "off").features(images, "features")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert sizes == ([90] if side == 8 else [81, 9])


def test_views_differ_by_their_seed_and_keep_the_order():
    backbone = create_backbone("resnet8", in_channels=3).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    images, plain = (
        MemoryImages(pixels, np.zeros(20, np.int64), Transform(policy, (0.4,) * 3, (0.2,) * 3, 8), CPU)
        for policy in ("crop_flip", "none")
    )
    extractor = FeatureExtractor(backbone, 3, CPU, "off")
    one, again, other = (extractor.view(images, seed, "view") for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    np.testing.assert_allclose(extractor.view(plain, 0, "view"), extractor.features(plain, "features"), atol=1e-5)
