"""What the tests of several stages share: pictures, own features, refusals, and what stages wrote."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from longtail.core.errors import LongtailError
from longtail.train import loop
from stages.context import advice
from tests.conftest import write_params

BEFORE = ("prepare", "subsample", "pretrain", "train_backbone", "extract_features")
OUTPUT_FOLDERS = ("data", "models", "features", "metrics")
DLSA_OUTPUTS = ("models/dlsa.safetensors", "models/dlsa_routing.h5",
                "metrics/predictions/dlsa_control.h5", "metrics/predictions/dlsa.h5")  # fmt: skip
BNS = {"pretrain": {"method": "bns", "epochs": 3}}


def digests(folder: Path) -> dict[str, str]:
    files = [
        path
        for name in OUTPUT_FOLDERS
        for path in (folder / name).rglob("*")
        if path.is_file() and "cost" not in path.parts
    ]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_image(path: Path, label: int, number: int, size: tuple[int, int]) -> None:
    """A noisy picture whose brightness and hue say its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([label, number])
    color = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [180, 180, 40]])[label]
    Image.fromarray((color + rng.integers(-30, 30, (*size, 3))).clip(0, 255).astype(np.uint8)).save(path, quality=95)


def refused(error: type[LongtailError], call, *words: str) -> str:
    """The line that the user sees, error and advice together. It has all ``words``."""
    with pytest.raises(error) as caught:
        call()
    message = advice(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    return message


def write_own(folder: Path, part: str, labels: np.ndarray, form: str = "h5", width: int = 6) -> None:
    """One part of a dataset that is features, in one of its forms. The classes are a few deviations apart."""
    features = np.random.default_rng(len(labels)).normal(size=(len(labels), width)) + 2 * labels[:, None]
    features = features.astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    if form == "h5":
        with h5py.File(folder / f"features_{part}.h5", "w") as file:
            file["features"], file["label"] = features, labels
    elif form == "npz":
        np.savez(folder / f"features_{part}.npz", X=features, y=labels)
    else:
        np.save(folder / f"features_{part}.npy", features)
        np.save(folder / f"labels_{part}.npy", labels)


def dlsa_bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in DLSA_OUTPUTS}


def read_metrics(name: str) -> dict:
    return json.loads(Path(f"metrics/{name}.json").read_text())


_KNOWN: dict[str, dict[str, bytes]] = {}


def known(key: str, compute) -> dict[str, bytes]:
    """What ``compute`` gives, from the first time that it was asked for: stages give the same bytes in every folder."""
    if key not in _KNOWN:
        _KNOWN[key] = compute()
    return _KNOWN[key]


def restore(folder: Path, contents: dict[str, bytes]) -> dict[str, bytes]:
    """Write files with these contents, by their names in the folder; the contents."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return contents


def record_saves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts of which the training loop saves checkpoints from now on, one entry per checkpoint."""
    original, saves = loop._save, []

    def recorded(task: object, store: object, part: str, *rest: object) -> None:
        saves.append(part)
        original(task, store, part, *rest)

    monkeypatch.setattr(loop, "_save", recorded)
    return saves


def interrupt_save(monkeypatch: pytest.MonkeyPatch, number: int, of: str = "") -> None:
    """KeyboardInterrupt right after the ``number``-th checkpoint of parts whose names contain ``of``."""
    original, saves = loop._save, []

    def interrupted(task: object, store: object, part: str, *rest: object) -> None:
        original(task, store, part, *rest)
        if of in part:
            saves.append(part)
            if len(saves) == number:
                raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", interrupted)


def pretrained(stage, folder: Path, *changes: dict) -> dict[str, bytes]:
    write_params(folder, BNS, *changes)
    for name in BEFORE[:3]:
        stage(name)
    return {
        name: (folder / name).read_bytes() for name in ("models/pretrained.safetensors", "metrics/curves/pretrain.tsv")
    }
