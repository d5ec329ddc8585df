"""The content of the user's own files, for sources of a few files. If it changes, ``prepare`` runs again.

Where the files are not at hand, as in a clone that has only pulled the results, what ``prepare`` recorded counts.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longtail.artifacts.atomic import atomic_open
from longtail.artifacts.digest import file_digest
from longtail.artifacts.tables import read_csv
from longtail.core.params import bind, keys_of
from longtail.data.params import DatasetParams
from longtail.data.prepared_features import FILES_COLUMNS, files_table
from longtail.data.sources import SOURCES
from stages.paths import PREPARED, SCRATCH

CACHE = SCRATCH / "own_files.json"


def own_files_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 over names and contents of the files; empty for a source whose files do not count."""
    params = bind(DatasetParams, {name: value for name, value in content.items() if name in keys_of(DatasetParams)})
    list_files = SOURCES.get(params.dataset).files
    if list_files is None:
        return ""
    found = {path.name: known_digest(path) for path in list_files(params)} or _recorded()
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _recorded() -> dict[str, str]:
    path = files_table(PREPARED)
    if not path.is_file():
        return {}
    table = read_csv(path, made_by="prepare", columns=FILES_COLUMNS, text=FILES_COLUMNS)
    return dict(zip(*(table[name] for name in FILES_COLUMNS), strict=True))


def known_digest(path: Path) -> str:
    """The digest of a file, computed once for each size and time of change."""
    state = path.stat()
    key = f"{path.resolve()} {state.st_size} {state.st_mtime_ns} {state.st_ino}"
    try:
        known = json.loads(CACHE.read_text(encoding="utf-8")) if CACHE.is_file() else {}
    except ValueError:  # cut off: computed anew
        known = {}
    if key not in known:
        with atomic_open(CACHE) as file:
            known[key] = file_digest(path)
            file.write(json.dumps(known, sort_keys=True))
    return str(known[key])
