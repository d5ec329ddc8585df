"""Heads on disk: ``features/head.h5`` and ``models/heads/METHOD.h5``."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.hdf5 import Hdf5Content, read_hdf5, write_hdf5
from longtail.core.errors import ArtifactError, DataError
from longtail.core.head import CenteredCosineHead, ClassMeans, Head, LinearHead, Neighbors, StandardizedHead

SCHEMA = "longtail/head/2"
NCM, CENTERED_COSINE, NEIGHBORS = "ncm", "centered_cosine", "neighbors"
_VALUES = {
    NCM: ("centroids", "mean"),
    "standardized": ("weight", "center", "spread", "prior"),
    CENTERED_COSINE: ("weight", "center", "scale"),
    NEIGHBORS: ("rows", "labels", "center", "spread", "k", "temperature", "prior"),
}
_ATTRIBUTES = ("method", "kind", "split_digest", "backbone_digest")
_NETWORK = ("backbone", "parameters", "macs")
_ORIGIN = ("weights", "trained_on", "license")


@dataclass(frozen=True)
class NetworkSize:
    """The network that a head belongs to.

    Attributes:
        backbone: its name.
        parameters: values in the backbone and the head, without buffers.
        macs: multiply-accumulates per image.
        weights, trained_on, license: where its pretrained weights come from, the images that they were trained on, and
            their license; empty without pretrained weights.
    """

    backbone: str
    parameters: int
    macs: int
    weights: str = ""
    trained_on: str = ""
    license: str = ""

    def known(self) -> dict[str, Scalar]:
        """All fields but the empty ones."""
        return {name: value for name, value in asdict(self).items() if value != ""}


@dataclass(frozen=True)
class HeadFile:
    """One classifier on D-dimensional features of C classes.

    Attributes:
        method: the method that made it; ``stage1`` for the backbone's own head.
        head: its weights.
        split_digest, backbone_digest: the split and the backbone that the head belongs to.
        network: the size of the network below and including the stage-1 head, or None if unknown.
        extra: further arrays, e.g. ``history/loss`` (E,) or ``curve/tau`` (T,).
        notes: what was chosen, and on which rows, e.g. ``{"tau": 0.7, "selected_on": "val"}``.
    """

    method: str
    head: Head
    split_digest: str
    backbone_digest: str
    network: NetworkSize | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, Scalar] = field(default_factory=dict)


def write_head(path: str | Path, content: HeadFile) -> None:
    """Write a head file; weights, biases, centroids and the rows of neighbors are stored as float32."""
    head = content.head
    attributes: dict[str, Scalar] = {
        "method": content.method,
        "split_digest": content.split_digest,
        "backbone_digest": content.backbone_digest,
    }
    if isinstance(head, ClassMeans):
        datasets = {"centroids": head.centroids.astype(np.float32), "mean": head.mean}
        attributes["kind"] = NCM
    elif isinstance(head, CenteredCosineHead):
        datasets = {"weight": head.weight.astype(np.float32), "center": head.center}
        attributes |= {"kind": CENTERED_COSINE, "scale": head.scale}
    elif isinstance(head, Neighbors):
        datasets = {"rows": head.rows.astype(np.float32), "labels": head.labels}
        datasets |= {"center": head.center, "spread": head.spread}
        attributes |= {"kind": NEIGHBORS, "k": head.k, "temperature": head.temperature, "prior": head.prior}
    else:
        datasets = {"weight": head.weight.astype(np.float32)}
        if head.bias is not None:
            datasets["bias"] = head.bias.astype(np.float32)
        attributes |= {"kind": head.kind, "scale": head.scale}
        if isinstance(head, StandardizedHead):
            datasets |= {"center": head.center, "spread": head.spread}
            attributes |= {"prior": head.prior} | ({} if head.l2 is None else {"l2": head.l2})
    if content.network is not None:
        attributes |= {f"network:{name}": value for name, value in content.network.known().items()}
    attributes |= {f"note:{name}": value for name, value in content.notes.items()}
    datasets |= {f"extra/{name}": array for name, array in content.extra.items()}
    write_hdf5(path, datasets, attributes, schema=SCHEMA)


def read_head(path: str | Path, made_by: str) -> HeadFile:
    """Read and verify a head file.

    Raises:
        ArtifactError: the file is missing, damaged or incomplete, or its arrays do not fit together.
    """
    content = read_hdf5(path, schema=SCHEMA, made_by=made_by)
    datasets, attributes = content.datasets, content.attributes
    arrays = _VALUES.get(str(attributes.get("kind")), ("scale", "weight"))
    fields = (*_NETWORK, *_ORIGIN)
    network = {name: attributes[f"network:{name}"] for name in fields if f"network:{name}" in attributes}
    missing = [name for name in (*_ATTRIBUTES, *arrays) if name not in attributes and name not in datasets]
    missing += [f"network:{name}" for name in _NETWORK if network and name not in network]
    if missing:
        raise ArtifactError(path, f"lacks {', '.join(missing)}", made_by)
    try:
        head = _head(content)
    except DataError as error:
        raise ArtifactError(path, f"is unusable: {error}", made_by) from error
    return HeadFile(
        method=str(attributes["method"]),
        head=head,
        split_digest=str(attributes["split_digest"]),
        backbone_digest=str(attributes["backbone_digest"]),
        network=NetworkSize(**network) if network else None,  # type: ignore[arg-type]
        extra={name.removeprefix("extra/"): array for name, array in datasets.items() if name.startswith("extra/")},
        notes={name.removeprefix("note:"): value for name, value in attributes.items() if name.startswith("note:")},
    )


def _head(content: Hdf5Content) -> Head:
    datasets, attributes = content.datasets, content.attributes
    if attributes["kind"] == NCM:
        return ClassMeans(datasets["centroids"], datasets["mean"])
    if attributes["kind"] == CENTERED_COSINE:
        return CenteredCosineHead(datasets["weight"], datasets["center"], float(attributes["scale"]))
    if attributes["kind"] == NEIGHBORS:
        vote = int(attributes["k"]), float(attributes["temperature"]), str(attributes["prior"])
        return Neighbors(datasets["rows"], datasets["labels"], datasets["center"], datasets["spread"], *vote)
    weight, bias = datasets["weight"], datasets.get("bias")
    if attributes["kind"] == "standardized":
        l2 = float(attributes["l2"]) if "l2" in attributes else None
        center, spread, prior = datasets["center"], datasets["spread"], str(attributes["prior"])
        return StandardizedHead(weight, bias, center=center, spread=spread, l2=l2, prior=prior)
    return LinearHead(weight, bias, str(attributes["kind"]), float(attributes["scale"]))
