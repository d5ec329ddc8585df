"""DLSA's routes, likelihoods and clusters of every row, and its training curves: ``models/dlsa_routing.h5``.

Shape legend: N rows of a part, L levels, E epochs, C classes, K clusters.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.hdf5 import read_hdf5, write_hdf5
from longtail.core.errors import ArtifactError

SCHEMA = "longtail/routing/2"
_COLUMNS = ("index", "label", "route", "log_likelihood", "cluster")


@dataclass(frozen=True)
class RoutedPart:
    """Rows of one part of the split.

    Attributes:
        index, label: (N,) int64, the row of each image in the dataset, and its class.
        route: (N,) int64, 1..L for the level that decides the row, L+1 for the regular classifier.
        log_likelihood: (N, L) float, in nats, under the flow of each level.
        cluster: (N, L) int64 in 0..K-1.
    """

    index: np.ndarray
    label: np.ndarray
    route: np.ndarray
    log_likelihood: np.ndarray
    cluster: np.ndarray


@dataclass(frozen=True)
class RoutingFile:
    """The content of the file.

    Attributes:
        depth, num_clusters, split_digest: L, K, and the split that the rows belong to.
        train_counts: (C,) int64.
        thresholds: (L,) float64.
        parts: ``train``, ``test`` and, where there is one, ``val``.
        histories: training curves by name: ``flow/LEVEL/COLUMN`` (E,), ``flow/LEVEL/log_likelihood/PART`` (E, C) class
            means, NaN for classes without rows, ``head/ROUTE/COLUMN`` and ``control/COLUMN`` (E,).
        notes: what was chosen, and on which rows, e.g. the epochs that were kept.
        control_notes: the same of the control, the head without a flow.
    """

    depth: int
    num_clusters: int
    split_digest: str
    train_counts: np.ndarray
    thresholds: np.ndarray
    parts: dict[str, RoutedPart]
    histories: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, Scalar] = field(default_factory=dict)
    control_notes: dict[str, Scalar] = field(default_factory=dict)


def write_routing(path: str | Path, routing: RoutingFile) -> None:
    """Write the file."""
    datasets = {f"parts/{name}/{c}": getattr(part, c) for name, part in routing.parts.items() for c in _COLUMNS}
    datasets |= {f"histories/{name}": values for name, values in routing.histories.items()}
    datasets |= {"train_counts": routing.train_counts, "thresholds": routing.thresholds}
    attributes: dict[str, Scalar] = {
        "depth": routing.depth,
        "num_clusters": routing.num_clusters,
        "split_digest": routing.split_digest,
    }
    attributes |= {f"note:{name}": value for name, value in routing.notes.items()}
    attributes |= {f"control_note:{name}": value for name, value in routing.control_notes.items()}
    write_hdf5(path, datasets, attributes, schema=SCHEMA)


def read_routing(path: str | Path, made_by: str) -> RoutingFile:
    """Read and verify the file.

    Raises:
        ArtifactError: the file is missing, damaged or incomplete; ``maker`` is ``made_by``.
    """
    content = read_hdf5(path, schema=SCHEMA, made_by=made_by)
    data, attributes = content.datasets, content.attributes
    names = sorted({name.split("/")[1] for name in data if name.startswith("parts/")})
    wanted = [f"parts/{part}/{column}" for part in {"train", "test", *names} for column in _COLUMNS]
    wanted += ["train_counts", "thresholds", "depth", "num_clusters", "split_digest"]
    missing = sorted(name for name in wanted if name not in data and name not in attributes)
    if missing:
        raise ArtifactError(path, f"lacks {', '.join(missing)}", made_by)
    return RoutingFile(
        depth=int(attributes["depth"]),
        num_clusters=int(attributes["num_clusters"]),
        split_digest=str(attributes["split_digest"]),
        train_counts=data["train_counts"],
        thresholds=data["thresholds"],
        parts={part: RoutedPart(*(data[f"parts/{part}/{column}"] for column in _COLUMNS)) for part in names},
        histories={n.removeprefix("histories/"): v for n, v in data.items() if n.startswith("histories/")},
        notes={n.removeprefix("note:"): v for n, v in attributes.items() if n.startswith("note:")},
        control_notes={
            n.removeprefix("control_note:"): v for n, v in attributes.items() if n.startswith("control_note:")
        },
    )
