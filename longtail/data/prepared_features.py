"""``data/prepared`` of a dataset that is features: as ``longtail.data.manifest`` has it, with rows in place of images.

- ``features.h5`` has the rows of all parts, in the order of the manifest.
- ``head.h5`` has the given head, if there is one.
- ``files.csv`` has the name and SHA-256 of each file that was read; see ``longtail.data.own_files``.

Shape legend: N rows, D features.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from longtail.artifacts.digest import file_digest
from longtail.artifacts.hdf5 import read_hdf5, write_hdf5
from longtail.artifacts.head_files import HeadFile, read_head, write_head
from longtail.artifacts.tables import write_csv, write_json
from longtail.core.errors import ArtifactError
from longtail.core.head import LinearHead
from longtail.data.manifest import FEATURES, MANIFEST_COLUMNS, STAGE, DatasetInfo
from longtail.data.own_files import write_files
from longtail.data.sources.base import FeatureSource

SCHEMA = "longtail/prepared_features/1"


def prepare_features(source: FeatureSource, folder: Path, *, dataset: str) -> DatasetInfo:
    """Write ``source`` to ``folder``, usually ``data/prepared``. ``dataset`` is the recorded name."""
    info = DatasetInfo(dataset, FEATURES, 0, 0, len(source.class_names))
    rows = len(source.labels)
    columns = [range(rows), source.labels, source.parts, [""] * rows, [""] * rows, source.groups or [""] * rows]
    write_hdf5(_rows_file(folder), {"features": source.features, "labels": source.labels}, {}, schema=SCHEMA)
    _head_file(folder).unlink(missing_ok=True)
    if source.head is not None:
        write_head(_head_file(folder), HeadFile("given", source.head, split_digest="", backbone_digest=""))
    write_files(folder, source.digests)
    write_csv(folder / "manifest.csv", pd.DataFrame(dict(zip(MANIFEST_COLUMNS, columns, strict=True))))
    write_csv(folder / "classes.csv", pd.DataFrame({"label": range(info.num_classes), "name": source.class_names}))
    write_json(folder / "dataset.json", asdict(info))
    return info


def read_rows(folder: Path, labels: np.ndarray) -> tuple[np.ndarray, str]:
    """The features (N, D) float32, and the digest of their file.

    Args:
        folder: what :func:`prepare_features` wrote.
        labels: (N,), those of the manifest.

    Raises:
        ArtifactError: the file is missing or damaged, or does not belong to the manifest.
    """
    path = _rows_file(folder)
    stored = read_hdf5(path, schema=SCHEMA, made_by=STAGE).datasets
    if not np.array_equal(stored["labels"], labels):
        raise ArtifactError(path, "has other rows than the manifest", STAGE)
    return stored["features"], file_digest(path)


def read_given_head(folder: Path) -> LinearHead | None:
    """The given head, or None."""
    path = _head_file(folder)
    if not path.is_file():
        return None
    head = read_head(path, STAGE).head
    assert isinstance(head, LinearHead)
    return head


def _rows_file(folder: Path) -> Path:
    return folder / "features.h5"


def _head_file(folder: Path) -> Path:
    return folder / "head.h5"
