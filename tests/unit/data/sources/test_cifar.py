"""CIFAR through torchvision's own loader."""

import hashlib
import io
import pickle
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from longtail.core.errors import DataError
from longtail.data.params import DatasetParams
from longtail.data.sources import SOURCES
from longtail.data.sources.base import Source
from longtail.data.sources.cifar10 import ARCHIVES


def load(name: str, root: Path | None, downloads: Path = Path("unused")) -> Source:
    params = DatasetParams(dataset=name, data_root=None if root is None else str(root))
    return SOURCES.get(name).load(params, downloads)


def fake_cifar(monkeypatch, name: str) -> bytes:
    """The archive of a tiny CIFAR; torchvision's lists of digests are those of its files."""
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    rng = np.random.default_rng(0)
    classes = [f"class {k}" for k in range(10 if name == "cifar10" else 100)]
    key = "labels" if name == "cifar10" else "fine_labels"
    files = {kind.meta["filename"]: pickle.dumps({kind.meta["key"]: classes})}
    for file, _ in [*kind.train_list, *kind.test_list]:
        pixels = rng.integers(0, 256, (len(classes), 3 * 32 * 32), dtype=np.uint8)
        files[file] = pickle.dumps({"data": pixels, key: rng.permutation(len(classes)).tolist()})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file, content in files.items():
            info = tarfile.TarInfo(f"{kind.base_folder}/{file}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

    def md5(content: bytes) -> str:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(kind, attribute, [[file, md5(files[file])] for file, _ in getattr(kind, attribute)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(files[kind.meta["filename"]])})
    monkeypatch.setattr(kind, "tgz_md5", md5(buffer.getvalue()))
    return buffer.getvalue()


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize(("name", "train", "test"), [("cifar10", 50, 10), ("cifar100", 100, 100)])
def test_cifar_archive_placed_by_hand_is_read_without_a_network(tmp_path, monkeypatch, offline, name, train, test):
    (tmp_path / ARCHIVES[name]).write_bytes(fake_cifar(monkeypatch, name))
    source = load(name, tmp_path)
    assert source.images.shape == (train + test, 32, 32, 3)
    assert source.images.dtype == np.uint8
    assert source.labels.dtype == np.int64
    assert source.parts.tolist() == ["train"] * train + ["test"] * test
    assert len(source.class_names) == (10 if name == "cifar10" else 100)
    expected = datasets.__dict__[name.upper()](str(tmp_path), train=True)
    np.testing.assert_array_equal(source.images[:train], expected.data)
    assert source.labels[:train].tolist() == expected.targets
    np.testing.assert_array_equal(load(name, None, tmp_path).images, source.images)
    (tmp_path / ARCHIVES[name]).unlink()
    np.testing.assert_array_equal(load(name, tmp_path).images, source.images)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_without_a_network_says_what_to_place_where(tmp_path, offline, name):
    root = tmp_path / "data" / "raw"
    with pytest.raises(DataError, match=r"data_root must be a folder, .*raw$"):
        load(name, root)
    root.mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        load(name, root)
    message = str(caught.value)
    with pytest.raises(DataError, match=f"could not be downloaded.*put {ARCHIVES[name]}"):
        load(name, None, tmp_path / "new" / "raw")
    assert (tmp_path / "new" / "raw").is_dir()
    assert message.startswith(f"dataset: {name} is not in {root} and could not be downloaded")
    assert f"put {ARCHIVES[name]} there, or set data_root" in message
    assert "\n" not in message


def test_damaged_cifar_archive_is_refused_without_a_network(tmp_path, monkeypatch, offline):
    archive = fake_cifar(monkeypatch, "cifar10")
    (tmp_path / ARCHIVES["cifar10"]).write_bytes(archive[: len(archive) // 2])
    with pytest.raises(DataError, match=r"put cifar-10-python\.tar\.gz there"):
        load("cifar10", tmp_path)


def test_cifar_file_damaged_after_unpacking_is_unpacked_again(tmp_path, monkeypatch, offline):
    (tmp_path / ARCHIVES["cifar10"]).write_bytes(fake_cifar(monkeypatch, "cifar10"))
    first = load("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"torn")
    np.testing.assert_array_equal(load("cifar10", tmp_path).images, first.images)
