import numpy as np
import pytest
import torch

from longtail.augment.transforms import Transform
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.train.batches import FeatureRows, MemoryImages, PathImages
from longtail.train.extract import evaluating, evaluation_batch, outputs
from longtail.train.network import accuracy

CPU = torch.device("cpu")


def images(side: int, count: int = 3) -> MemoryImages:
    pixels = np.random.default_rng(0).integers(0, 255, (count, side, side, 3)).astype(np.uint8)
    return MemoryImages(pixels, np.arange(count) % 2, Transform("none", (0.4,) * 3, (0.2,) * 3, side), CPU)


@pytest.mark.parametrize(
    ("side", "expected"), [(8, 512), (32, 512), (64, 512), (65, 496), (96, 227), (224, 41), (384, 14), (2000, 1)]
)
def test_evaluation_batch_is_bounded_by_pixels(side, expected):
    assert evaluation_batch(images(side, count=1)) == expected


def test_evaluation_batch_of_files_follows_the_size_they_are_read_in(tmp_path):
    names, labels = np.array(["a.png"]), np.zeros(1, np.int64)
    files = PathImages(tmp_path, names, names, labels, Transform("none", (0.4,) * 3, (0.2,) * 3, 224), CPU, 0)
    assert evaluation_batch(files) == 41


def test_evaluation_batch_of_features_is_the_largest():
    assert evaluation_batch(FeatureRows(np.zeros((2, 4096), np.float32), np.zeros(2, np.int64), CPU)) == 512


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


def test_modes_of_all_modules_come_back_after_evaluation():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout()).train()
    model[0].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, False, True]
