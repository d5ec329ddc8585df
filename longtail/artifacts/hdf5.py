"""HDF5 files that are verified before they are read: each ends with a digest of all its bytes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from longtail.artifacts.atomic import atomic_path
from longtail.artifacts.digest import Scalar, file_digest
from longtail.artifacts.left_out import refuse_left_out
from longtail.core.errors import ArtifactError

SCHEMA = "schema"
MARK = b"longtail-sha256:"
_TRAILER_LENGTH = len(MARK) + 64
CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Hdf5Content:
    """The arrays of a file and its attributes, by name."""

    datasets: dict[str, np.ndarray]
    attributes: dict[str, Scalar]


def write_hdf5(
    path: str | Path, datasets: Mapping[str, np.ndarray], attributes: Mapping[str, Scalar], *, schema: str
) -> None:
    """Write arrays and attributes atomically. Equal content gives equal bytes.

    Args:
        path: the target file.
        datasets: name -> array of any shape. A name may contain ``/``. Strings are NumPy ``S`` arrays.
        attributes: name -> str, int, float or bool.
        schema: name and version of the layout, checked by :func:`read_hdf5`.
    """
    attributes = {**attributes, SCHEMA: schema}
    with atomic_path(path) as partial:
        with h5py.File(partial, "w", libver=("earliest", "v110")) as file:
            for name in sorted(datasets):
                array = np.ascontiguousarray(datasets[name])
                chunked = array.ndim > 0 and array.size > 0
                chunks = (min(CHUNK_ROWS, len(array)), *array.shape[1:]) if chunked else None
                file.create_dataset(name, data=array, chunks=chunks, fletcher32=chunked, track_times=False)
            for name in sorted(attributes):
                file.attrs[name] = attributes[name]
        # HDF5 ignores bytes after its own end. Its library can crash or hang on damaged metadata, so a reader checks
        # this digest of all bytes before it opens the file.
        trailer = MARK + file_digest(partial).encode()
        with open(partial, "ab") as tail:
            tail.write(trailer)


def has_trailer(path: Path) -> bool:
    """Whether a file ends like the files of :func:`write_hdf5`."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TRAILER_LENGTH))
        return file.read(len(MARK)) == MARK


def is_complete(path: Path) -> bool:
    """Whether a file is one of :func:`write_hdf5` and its bytes are unchanged."""
    digest, left = hashlib.sha256(), path.stat().st_size - _TRAILER_LENGTH
    with open(path, "rb") as file:
        while left > 0:
            block = file.read(min(left, 2**20))
            if not block:
                return False
            digest.update(block)
            left -= len(block)
        return file.read() == MARK + digest.hexdigest().encode()


def read_hdf5(path: str | Path, *, schema: str, made_by: str) -> Hdf5Content:
    """Verify the bytes of a file, check its schema, and read all of it.

    Raises:
        ArtifactError: the file is missing, truncated, damaged or of another schema; ``maker`` is ``made_by``.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(path, "is missing", made_by, missing=True)
    if not is_complete(path):
        refuse_left_out(path, made_by)
        raise ArtifactError(path, "is damaged or truncated, or was not written by longtail", made_by)
    datasets: dict[str, np.ndarray] = {}

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            attributes = {name: _to_python(value) for name, value in file.attrs.items()}
            file.visititems(collect)
    # h5py raises any of these, depending on how its C library fails.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise ArtifactError(path, f"is damaged ({error})", made_by) from error
    given = attributes.pop(SCHEMA, None)
    if given != schema:
        raise ArtifactError(path, f"must have the schema {schema!r}, got {given!r}", made_by)
    return Hdf5Content(datasets, attributes)


def _to_python(value: object) -> Scalar:
    item = value.item() if isinstance(value, np.generic) else value
    if not isinstance(item, str | int | float | bool):
        raise TypeError(f"attribute of type {type(value).__name__}")
    return item
