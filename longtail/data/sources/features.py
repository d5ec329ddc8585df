"""The user's own features: a folder with one file, or one pair of files, for each part.

The parts are train, test and optionally val. Each has one of these forms:

- ``features_PART.h5`` with the datasets ``features`` and ``labels`` (or ``label``), as DLSA's files have them.
- ``features_PART.npz`` with the arrays ``features`` (or ``X``) and ``labels`` (or ``y``).
- ``features_PART.npy`` and ``labels_PART.npy``.

A head is optional: ``head.h5`` or ``head.npz`` with ``weight`` (C, D) and perhaps ``bias`` (C,). So are class names:
``classes.txt`` with one name per line, or an array ``class_names`` beside the training features. The files are only
read, and never with pickle.

Shape legend: N rows, D features, C classes.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from longtail.artifacts.digest import file_digest
from longtail.artifacts.hdf5 import has_trailer, is_complete
from longtail.artifacts.head_files import read_head
from longtail.core.errors import ArtifactError, DataError
from longtail.core.head import LinearHead
from longtail.data.sources import SourceEntry
from longtail.data.sources.base import FeatureSource

if TYPE_CHECKING:
    from longtail.data.params import DatasetParams

PARTS = ("train", "val", "test")
SUFFIXES = ("h5", "npz", "npy")
FEATURE_NAMES, LABEL_NAMES, CLASS_NAMES = ("features", "X"), ("labels", "label", "y"), "class_names"
FLOATS = (np.float16, np.float32, np.float64)
BLOCK_ROWS = 4096
# What h5py and NumPy raise for damaged files, depending on where they fail.
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Part:
    """Where the rows of one part are.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        file: the file of the features.
        labels_file: the file of the labels, which may be the same.
    """

    name: str
    file: Path
    labels_file: Path

    @property
    def files(self) -> list[Path]:
        """The files of the part, each once."""
        return [self.file] if self.file == self.labels_file else [self.file, self.labels_file]


def load(root: Path, relabel: bool) -> FeatureSource:
    """Read and check the files of ``root``.

    Args:
        root: the folder.
        relabel: number the labels that occur in train 0..C-1, in ascending order. Otherwise gaps are refused.

    Raises:
        DataError: a part is missing, is there in two forms, or cannot be used; the message names the file.
    """
    parts = find_parts(root)
    shapes = {part.name: _read_shape(part) for part in parts}
    width = shapes["train"][1]
    for part in parts:
        if shapes[part.name][1] != width:
            given = shapes[part.name][1]
            raise DataError(f"{part.file} must have {width} features like {parts[0].file.name}, got {given}")
    features = np.empty((sum(rows for rows, _ in shapes.values()), width), np.float32)
    labels, part_of, start = [], [], 0
    for part in parts:
        stop = start + shapes[part.name][0]
        _read_rows(part, features[start:stop])
        labels.append(_read_labels(part, stop - start))
        part_of += [part.name] * (stop - start)
        start = stop
    known = _known_labels(parts, labels, relabel)
    head_path, head = _read_head(root, (len(known), width))
    names_path, names = _read_class_names(root, parts[0], known)
    used = [file for part in parts for file in part.files] + [path for path in (head_path, names_path) if path]
    return FeatureSource(
        class_names=names,
        labels=np.searchsorted(known, np.concatenate(labels)),
        parts=np.asarray(part_of),
        features=features,
        head=head,
        digests={path.name: file_digest(path) for path in sorted(used)},
    )


def find_parts(root: Path) -> list[Part]:
    """The parts of the folder, train first.

    Raises:
        DataError: no folder, no train or test part, or a part in several forms.
    """
    if not root.is_dir():
        raise DataError(f"data_root must be the folder of the features for dataset: features, got {root}")
    return [part for name in PARTS if (part := _find_part(root, name)) is not None]


def _find_part(root: Path, name: str) -> Part | None:
    one = [root / f"features_{name}.{suffix}" for suffix in ("h5", "npz")]
    pair = (root / f"features_{name}.npy", root / f"labels_{name}.npy")
    found = [Part(name, path, path) for path in one if path.is_file()]
    if any(path.is_file() for path in pair):
        found.append(Part(name, *pair))
    if len(found) > 1:
        files = " and ".join(path.name for part in found for path in part.files if path.is_file())
        raise DataError(f"data_root must have one form of the {name} features, got {files} in {root}")
    if not found:
        if name == "val":
            return None
        raise DataError(
            f"data_root must have {one[0].name}, {one[1].name}, or {pair[0].name} with {pair[1].name} for dataset: "
            f"features, but {root} has none of them"
        )
    for path in found[0].files:
        if not path.is_file():
            raise DataError(f"data_root must have {pair[0].name} with {pair[1].name}, but {path} is missing")
    return found[0]


@contextmanager
def _arrays(path: Path) -> Iterator[Mapping[str, Any]]:
    """The arrays of a file by name, not yet in memory where that is possible; a ``.npy`` file has one, named ''."""
    try:
        if path.suffix == ".h5":
            if has_trailer(path) and not is_complete(path):
                raise DataError(f"{path} is damaged or truncated")
            with h5py.File(path, "r") as file:
                yield file
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                yield file
        else:
            yield {"": np.load(path, mmap_mode="r", allow_pickle=False)}
    except _UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _pick(arrays: Mapping[str, Any], path: Path, names: tuple[str, ...]) -> Any:
    """The array under the one of ``names`` that the file has."""
    if path.suffix == ".npy":
        return arrays[""]
    found = [name for name in names if name in arrays]
    if len(found) != 1:
        what = f"{' and '.join(found)}, which mean the same" if found else f"only {', '.join(arrays) or 'nothing'}"
        raise DataError(f"{path} must have the array {' or '.join(names)}, got {what}")
    return arrays[found[0]]


def _read_shape(part: Part) -> tuple[int, int]:
    """Rows and columns of the features."""
    with _arrays(part.file) as arrays:
        found = _pick(arrays, part.file, FEATURE_NAMES)
        shape, dtype = _shape_and_dtype(found)
    if dtype.newbyteorder("=") not in FLOATS:
        raise DataError(f"{part.file} must have features of float16, float32 or float64, got {dtype}")
    if len(shape) != 2 or shape[1] == 0 or (part.name != "val" and shape[0] == 0):
        raise DataError(f"{part.file} must have features (N, D) with rows and columns, got the shape {shape}")
    return shape[0], shape[1]


def _shape_and_dtype(found: Any) -> tuple[tuple[int, ...], np.dtype]:
    if not isinstance(found, np.ndarray | h5py.Dataset):
        raise TypeError("features and labels must be arrays")
    return tuple(found.shape), found.dtype


def _read_rows(part: Part, target: np.ndarray) -> None:
    """Fill ``target`` (n, D) float32 with the features of the part, all of them finite."""
    with _arrays(part.file) as arrays, np.errstate(over="ignore"):
        found = _pick(arrays, part.file, FEATURE_NAMES)
        for start in range(0, len(target), BLOCK_ROWS):
            target[start : start + BLOCK_ROWS] = found[start : start + BLOCK_ROWS]
            finite = np.isfinite(target[start : start + BLOCK_ROWS]).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise DataError(f"{part.file} must have finite features within float32, but row {row} is not finite")


def _read_labels(part: Part, rows: int) -> np.ndarray:
    """(rows,) int64."""
    path = part.labels_file
    with _arrays(path) as arrays:
        found = _pick(arrays, path, LABEL_NAMES)
        shape, dtype = _shape_and_dtype(found)
        labels = np.asarray(found[...])
    if not np.issubdtype(dtype, np.integer):
        raise DataError(f"{path} must have labels that are integers, got {dtype}")
    if shape not in ((rows,), (rows, 1), (1, rows)):
        raise DataError(f"{path} must have labels ({rows},), one per row of the features, got the shape {shape}")
    labels = labels.reshape(-1)
    wrong = np.flatnonzero((labels < 0) | (labels > np.iinfo(np.int32).max))
    if len(wrong):
        raise DataError(f"{path} must have labels from 0 to C-1, got {labels[wrong[0]]} in row {wrong[0]}")
    return labels.astype(np.int64)


def _known_labels(parts: list[Part], labels: list[np.ndarray], relabel: bool) -> np.ndarray:
    """(C,) the labels of the training rows, ascending. Refuses gaps, and labels of other parts that train lacks."""
    known, train = np.unique(labels[0]), parts[0].labels_file
    if not relabel and known[-1] != len(known) - 1:
        gap = int(np.argmax(known != np.arange(len(known))))
        raise DataError(
            f"{train} must have rows of every class 0 to C-1, got label {known[-1]} but none of class {gap}; set "
            "relabel: true to number the labels that occur"
        )
    for part, given in zip(parts, labels, strict=True):
        strange = np.flatnonzero(~np.isin(given, known))
        if len(strange):
            row = int(strange[0])
            raise DataError(f"{part.labels_file}: label {given[row]} (row {row}) does not occur in {train.name}")
    return known


def _read_head(root: Path, shape: tuple[int, int]) -> tuple[Path | None, LinearHead | None]:
    """The given head and its file. A head file of this library keeps its kind and scale."""
    found = [path for path in (root / "head.h5", root / "head.npz") if path.is_file()]
    if len(found) > 1:
        raise DataError(f"data_root must have one form of the head, got {found[0].name} and {found[1].name} in {root}")
    if not found:
        return None, None
    path = found[0]
    if path.suffix == ".h5" and has_trailer(path):
        try:
            stored = read_head(path, made_by="").head
        except ArtifactError as error:
            raise DataError(str(error)) from error
        if not isinstance(stored, LinearHead):
            raise DataError(f"{path} must hold a linear head, got {stored.called}")
        head = stored
    else:
        with _arrays(path) as arrays:
            weight = np.asarray(_pick(arrays, path, ("weight",))[...])
            bias = np.asarray(arrays["bias"][...]) if "bias" in arrays else None
        head = _plain_head(path, weight, bias)
    if head.weight.shape != shape:
        raise DataError(
            f"{path} must have a weight {shape} (classes, features) like the features, got {head.weight.shape}"
        )
    return path, head


def _plain_head(path: Path, weight: np.ndarray, bias: np.ndarray | None) -> LinearHead:
    given = [weight] if bias is None else [weight, bias]
    if not all(array.dtype in FLOATS for array in given):
        dtypes = " and ".join(str(array.dtype) for array in given)
        raise DataError(f"{path} must have a weight and a bias of float16, float32 or float64, got {dtypes}")
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = " and ".join(str(array.shape) for array in given)
        raise DataError(f"{path} must have a weight (C, D) and a bias (C,), got {shapes}")
    with np.errstate(over="ignore"):
        weight, bias = weight.astype(np.float32), None if bias is None else bias.astype(np.float32)
    if not np.isfinite(weight).all() or (bias is not None and not np.isfinite(bias).all()):
        raise DataError(f"{path} must have a weight and a bias that are finite within float32")
    return LinearHead(weight, bias)


def _read_class_names(root: Path, train: Part, known: np.ndarray) -> tuple[Path | None, tuple[str, ...]]:
    """A name of each known label, and the file of their own that they come from. Without names, the labels."""
    file, names = root / "classes.txt", _stored_names(train)
    if file.is_file():
        if names is not None:
            raise DataError(f"data_root must have one form of the class names, got {file.name} and {CLASS_NAMES} in "
                            f"{train.file}")  # fmt: skip
        try:
            names = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{file} must be text in UTF-8: {error}") from error
    if names is None:
        return None, tuple(str(label) for label in known)
    origin, expected = file if file.is_file() else train.file, int(known[-1]) + 1
    if len(names) != expected or not all(name.strip() for name in names):
        given = f"{len(names)}, {sum(not name.strip() for name in names)} of them empty"
        raise DataError(f"{origin} must have {expected} class names, one for each label from 0 on, got {given}")
    return file if file.is_file() else None, tuple(names[label].strip() for label in known)


def _stored_names(train: Part) -> list[str] | None:
    """The array ``class_names`` of the training file, or None."""
    with _arrays(train.file) as arrays:
        if CLASS_NAMES not in arrays:
            return None
        names = np.asarray(arrays[CLASS_NAMES][...]).reshape(-1)
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]


def _files(params: "DatasetParams") -> dict[str, Path]:
    root = Path(str(params.data_root))
    names = [f"{kind}_{part}.{suffix}" for kind in ("features", "labels") for part in PARTS for suffix in SUFFIXES]
    return {name: root / name for name in (*names, "head.h5", "head.npz", "classes.txt") if (root / name).is_file()}


def _has_val(params: "DatasetParams") -> bool | None:
    root = Path(str(params.data_root))
    return any((root / f"features_val.{suffix}").is_file() for suffix in SUFFIXES) if root.is_dir() else None


def _load(params: "DatasetParams", downloads: Path) -> FeatureSource:
    return load(Path(str(params.data_root)), params.relabel)


SOURCE = SourceEntry(load=_load, needs_data_root=True, has_images=False, files=_files, has_val=_has_val)
