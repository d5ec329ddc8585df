"""Classifier heads on disk: ``features/head.h5`` and ``models/heads/METHOD.h5``."""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.hdf5 import read_hdf5, write_hdf5
from longtail.core.errors import ArtifactError

SCHEMA = "longtail/head/1"
KINDS = ("linear", "cosine", "unit", "ncm")
_OWN = ("method", "kind", "scale", "split_digest", "backbone_digest")


@dataclass(frozen=True)
class HeadFile:
    """One classifier on D-dimensional features of C classes.

    Attributes:
        method: the method that made it, ``stage1`` for the backbone's own head.
        kind: ``linear`` (x W^T + b), ``cosine`` (scale * cos(x, w)), ``unit`` (x/|x| W^T + b, a repaired cosine
            head) or ``ncm`` (weight holds the centroids).
        weight: (C, D) float32.
        bias: (C,) float32 or None.
        scale: factor of the cosine, 1.0 for the others.
        split_digest, backbone_digest: what the head belongs to.
        extra: further arrays, e.g. ``mean`` (D,), ``history/loss`` (E,), ``curve/tau`` (T,).
        notes: how it came about, e.g. ``{"tau": 0.7, "selected_on": "val"}``.
    """

    method: str
    kind: str
    weight: np.ndarray
    bias: np.ndarray | None
    scale: float
    split_digest: str
    backbone_digest: str
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, Scalar] = field(default_factory=dict)


def write_head(path: str | Path, head: HeadFile) -> str:
    """Write a head file and return its content digest."""
    assert head.kind in KINDS, head.kind
    datasets = {"weight": head.weight.astype(np.float32), **{f"extra/{k}": v for k, v in head.extra.items()}}
    if head.bias is not None:
        datasets["bias"] = head.bias.astype(np.float32)
    attributes: dict[str, Scalar] = {name: getattr(head, name) for name in _OWN}
    attributes |= {f"note:{name}": value for name, value in head.notes.items()}
    return write_hdf5(path, datasets, attributes, schema=SCHEMA)


def read_foreign_head(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """weight (C, D) and bias (C,) or None, float32, of somebody else's HDF5 file with datasets of these names.

    Raises:
        ArtifactError: unreadable, misshapen, or with a value that is not finite.
    """
    try:
        with h5py.File(path, "r") as file:
            weight, bias = np.asarray(file["weight"]), np.asarray(file["bias"]) if "bias" in file else None
    except (OSError, RuntimeError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    given = [weight] if bias is None else [weight, bias]
    if not all(np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all() for array in given):
        raise ArtifactError(f"{path}: weight and bias must be finite floats")
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = " and ".join(str(array.shape) for array in given)
        raise ArtifactError(f"{path}: weight and bias of {shapes} given, (C, D) and (C,) expected")
    return weight.astype(np.float32), None if bias is None else bias.astype(np.float32)


def read_head(path: str | Path, made_by: str) -> HeadFile:
    """Read and verify a head file.

    Raises:
        ArtifactError: missing, damaged, or with parts whose shapes do not fit together.
    """
    content = read_hdf5(path, schema=SCHEMA, made_by=made_by)
    datasets, attributes = content.datasets, content.attributes
    missing = [name for name in _OWN if name not in attributes] + ["weight"] * ("weight" not in datasets)
    if missing:
        raise ArtifactError(f"{path} lacks {', '.join(missing)}; make it again with `dvc repro -f {made_by}`")
    bias = datasets.get("bias")
    if bias is not None and bias.shape != datasets["weight"].shape[:1]:
        raise ArtifactError(f"{path}: bias {bias.shape} does not fit weight {datasets['weight'].shape}")
    return HeadFile(
        method=str(attributes["method"]),
        kind=str(attributes["kind"]),
        weight=datasets["weight"],
        bias=bias,
        scale=float(attributes["scale"]),
        split_digest=str(attributes["split_digest"]),
        backbone_digest=str(attributes["backbone_digest"]),
        extra={name.removeprefix("extra/"): array for name, array in datasets.items() if name.startswith("extra/")},
        notes={name.removeprefix("note:"): value for name, value in attributes.items() if name.startswith("note:")},
    )
