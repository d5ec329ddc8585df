"""Verified HDF5 files: checksummed chunks, a digest over datasets and attributes, and last one over all bytes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from longtail.artifacts.atomic import atomic_path
from longtail.artifacts.digest import Scalar, content_digest, file_digest
from longtail.core.errors import ArtifactError

SCHEMA, DIGEST = "schema", "digest"
MARK = b"longtail-sha256:"
_TRAILER_LENGTH = len(MARK) + 64
CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Hdf5Content:
    """What a verified file holds: arrays by name, attributes by name, and the digest of both."""

    datasets: dict[str, np.ndarray]
    attributes: dict[str, Scalar]
    digest: str


def write_hdf5(
    path: str | Path, datasets: Mapping[str, np.ndarray], attributes: Mapping[str, Scalar], *, schema: str
) -> str:
    """Write arrays and attributes atomically; equal content gives equal bytes.

    Args:
        path: the target file.
        datasets: name -> array of any shape; a name may hold ``/``. Strings are NumPy ``S`` arrays.
        attributes: name -> str, int, float or bool.
        schema: name and version of the layout, checked by :func:`read_hdf5`.

    Returns:
        The content digest in hex.
    """
    attributes = {**attributes, SCHEMA: schema}
    digest = content_digest(datasets, attributes)
    with atomic_path(path) as partial:
        with h5py.File(partial, "w", libver=("earliest", "v110")) as file:
            for name in sorted(datasets):
                array = np.ascontiguousarray(datasets[name])
                chunked = array.ndim > 0 and array.size > 0
                chunks = (min(CHUNK_ROWS, len(array)), *array.shape[1:]) if chunked else None
                file.create_dataset(name, data=array, chunks=chunks, fletcher32=chunked, track_times=False)
            for name in sorted(attributes):
                file.attrs[name] = attributes[name]
            file.attrs[DIGEST] = digest
        # HDF5 ignores what stands behind its end. Its library can crash or hang on damaged metadata, so a reader
        # checks this digest of all bytes before it lets the library see them.
        trailer = MARK + file_digest(partial).encode()
        with open(partial, "ab") as tail:
            tail.write(trailer)
    return digest


def has_trailer(path: Path) -> bool:
    """Whether a file ends as :func:`write_hdf5` ends them."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TRAILER_LENGTH))
        return file.read(len(MARK)) == MARK


def is_foreign(path: Path, dataset: str) -> bool:
    """Whether a file is HDF5 of somebody else's: it holds ``dataset``, and neither our schema nor our trailer."""
    if has_trailer(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return SCHEMA not in file.attrs and dataset in file
    except (OSError, RuntimeError, KeyError, ValueError):
        return False  # a damaged file of ours: the verified reader says what is wrong


def _is_whole(path: Path) -> bool:
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
    """Read a whole file, after its bytes have been verified, and check its schema.

    Raises:
        ArtifactError: the file is missing, truncated, damaged, half-written or of another schema; the message names
            it and the stage ``made_by`` that makes it.
    """
    path = Path(path)
    remedy = f"make it again with `dvc repro -f {made_by}`"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: make it with `dvc repro {made_by}`")
    if not _is_whole(path):
        raise ArtifactError(f"{path} is damaged, half-written, or was not written by this project; {remedy}")
    datasets: dict[str, np.ndarray] = {}

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            attributes = {name: _plain(value) for name, value in file.attrs.items()}
            file.visititems(collect)
    # h5py reports damage through whichever of these its C library's failure maps to.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); {remedy}") from error
    recorded = attributes.pop(DIGEST, None)
    if recorded is None:
        raise ArtifactError(f"{path} carries no content digest: it is half-written or not one of ours; {remedy}")
    if attributes.get(SCHEMA) != schema:
        raise ArtifactError(f"{path} has schema {attributes.get(SCHEMA)!r}, expected {schema!r}; {remedy}")
    del attributes[SCHEMA]
    return Hdf5Content(datasets, attributes, str(recorded))


def _plain(value: object) -> Scalar:
    item = value.item() if isinstance(value, np.generic) else value
    if not isinstance(item, str | int | float | bool):
        raise TypeError(f"attribute of type {type(value).__name__}")
    return item
