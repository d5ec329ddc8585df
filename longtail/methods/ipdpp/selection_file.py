"""The file ``models/ipdpp_selection.h5``: what IP-DPP knew about every training image, and what it drew.

Shapes: N training images, C classes, R rounds. Each round is a new draw from all images.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from longtail.artifacts.digest import Scalar
from longtail.artifacts.hdf5 import read_hdf5, write_hdf5
from longtail.core.errors import ArtifactError

SCHEMA = "longtail/selection/2"
SUBSET_COLUMNS = ("round", "class", "index", "probability", "inclusion_probability")
_PER_IMAGE = ("index", "label")
_PER_ROUND = ("log_probability", "inclusion_probability")
_DRAWS = ("selected", "control")
_DATASETS = ("train_counts", "epochs", *_PER_IMAGE, *_PER_ROUND, *_DRAWS)


@dataclass(frozen=True)
class SelectionFile:
    """The contents of the file.

    Attributes:
        split_digest: the split that the images belong to.
        train_counts: (C,) int64.
        index, label: (N,) int64, the row of each training image in the dataset, and its class.
        epochs: (R,) int64, the 0-based epoch before which each round was drawn.
        log_probability: (R, N) float64, log-probability of the image's own label in nats, from the model at that time.
        inclusion_probability: (R, N) float64, the probability that each image is drawn; 1 in a class kept whole.
        selected, control: (R, N) bool, the images drawn by IP-DPP and by the uniform control.
        notes: what was chosen, and on which rows.
        control_notes: the same for the uniform control.
    """

    split_digest: str
    train_counts: np.ndarray
    index: np.ndarray
    label: np.ndarray
    epochs: np.ndarray
    log_probability: np.ndarray
    inclusion_probability: np.ndarray
    selected: np.ndarray
    control: np.ndarray
    notes: dict[str, Scalar] = field(default_factory=dict)
    control_notes: dict[str, Scalar] = field(default_factory=dict)


def write_selection(path: str | Path, selection: SelectionFile) -> None:
    """Write the file."""
    datasets = {name: getattr(selection, name) for name in _DATASETS}
    # HDF5 has no boolean type; h5py would store its own enumeration.
    datasets |= {name: datasets[name].astype(np.uint8) for name in _DRAWS}
    assert _find_inconsistency(datasets) is None, _find_inconsistency(datasets)
    attributes: dict[str, Scalar] = {"split_digest": selection.split_digest}
    attributes |= {f"note:{name}": value for name, value in selection.notes.items()}
    attributes |= {f"control_note:{name}": value for name, value in selection.control_notes.items()}
    write_hdf5(path, datasets, attributes, schema=SCHEMA)


def read_selection(path: str | Path, made_by: str) -> SelectionFile:
    """Read and verify the file.

    Raises:
        ArtifactError: the file is missing, damaged or incomplete, has no round, or its arrays are inconsistent. The
            message names the file and ``made_by``, the stage that writes it.
    """
    content = read_hdf5(path, schema=SCHEMA, made_by=made_by)
    data, attributes = content.datasets, content.attributes
    missing = sorted(name for name in (*_DATASETS, "split_digest") if name not in data and name not in attributes)
    fault = f"lacks {', '.join(missing)}" if missing else _find_inconsistency(data)
    if fault:
        raise ArtifactError(path, fault, made_by)
    return SelectionFile(
        split_digest=str(attributes["split_digest"]),
        **{name: data[name].astype(bool) if name in _DRAWS else data[name] for name in _DATASETS},
        notes={n.removeprefix("note:"): v for n, v in attributes.items() if n.startswith("note:")},
        control_notes={
            n.removeprefix("control_note:"): v for n, v in attributes.items() if n.startswith("control_note:")
        },
    )


def subset_table(selection: SelectionFile) -> pd.DataFrame:
    """Return ``round, class, index, probability, inclusion_probability`` of the selected images.

    Rows are sorted by the first three columns. Rounds count from 0. ``probability`` is that of the image's own label.
    Both probabilities have 9 significant digits.
    """
    rounds, images = np.nonzero(selection.selected)
    columns = (
        rounds,
        selection.label[images],
        selection.index[images],
        _nine_digits(np.exp(selection.log_probability[rounds, images])),
        _nine_digits(selection.inclusion_probability[rounds, images]),
    )
    table = pd.DataFrame(dict(zip(SUBSET_COLUMNS, columns, strict=True)))
    return table.sort_values(["round", "class", "index"], ignore_index=True)


def _find_inconsistency(data: dict[str, np.ndarray]) -> str | None:
    """Return what is wrong with the shapes or labels, phrased to follow the file's name, or None."""
    vectors = ("train_counts", "epochs", *_PER_IMAGE)
    for name in vectors:
        if data[name].ndim != 1:
            return f"must have {name} with one dimension, got shape {data[name].shape}"
    rounds, images, classes = len(data["epochs"]), len(data["index"]), len(data["train_counts"])
    if rounds == 0:
        return "has no rounds"
    for name in (*_PER_IMAGE, *_PER_ROUND, *_DRAWS):
        expected = (images,) if name in _PER_IMAGE else (rounds, images)
        if data[name].shape != expected:
            return f"must have {name} of shape {expected}, got {data[name].shape}"
    label = data["label"]
    if (label < 0).any() or not np.array_equal(np.bincount(label, minlength=classes), data["train_counts"]):
        return "has labels that do not match train_counts"
    return None


def _nine_digits(values: np.ndarray) -> list[float]:
    return [float(f"{value:.9g}") for value in values]
