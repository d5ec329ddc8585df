"""``files.csv`` in ``data/prepared``: name and SHA-256 of each of the user's own few files that were read.

These are feature files, lists and tables. Images are in the manifest.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from longtail.artifacts.tables import read_csv, write_csv

COLUMNS = ("file", "sha256")


def files_table(folder: Path) -> Path:
    """The table in the folder of a prepared dataset."""
    return folder / "files.csv"


def write_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Write the table, or remove it if there is nothing to tell. ``digests``: SHA-256 by name."""
    if digests:
        write_csv(files_table(folder), pd.DataFrame(sorted(digests.items()), columns=list(COLUMNS)))
    else:
        files_table(folder).unlink(missing_ok=True)


def read_files(folder: Path) -> dict[str, str]:
    """SHA-256 by name; empty without a table."""
    if not files_table(folder).is_file():
        return {}
    table = read_csv(files_table(folder), made_by="prepare", columns=COLUMNS, text=COLUMNS)
    return dict(zip(*(table[name] for name in COLUMNS), strict=True))
