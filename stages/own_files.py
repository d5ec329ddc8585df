"""The content of the user's own files.

If features, lists or tables change, ``prepare`` runs again; if weights do, ``pretrain``.

Where the files are not at hand, as in a clone that has only pulled the results, what these stages recorded counts.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longtail.artifacts.atomic import atomic_open
from longtail.artifacts.checkpoints import read_meta
from longtail.artifacts.digest import file_digest
from longtail.core.errors import ConfigError
from longtail.core.params import bind, keys_of, refuse
from longtail.data.own_files import read_files
from longtail.data.params import DatasetParams
from longtail.data.sources import SOURCES
from stages.paths import PREPARED, PRETRAINED, SCRATCH

CACHE = SCRATCH / "own_files.json"


def own_files_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 over names and contents of a source's few files; empty for a source without such files.

    Raises:
        ConfigError: a file cannot be read, or a list or table is missing and nothing was prepared from it.
    """
    params = bind(DatasetParams, {name: value for name, value in content.items() if name in keys_of(DatasetParams)})
    list_files = SOURCES.get(params.dataset).files
    if list_files is None:
        return ""
    recorded = read_files(PREPARED)
    found = {}
    for name, path in list_files(params).items():
        try:
            digest = known_digest(path) if path.is_file() else recorded.get(name)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
        if digest is None:
            raise refuse(name, "an existing file", str(path))
        found[name] = digest
    found = found or recorded
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def weights_digest(path: Path) -> str:
    """SHA-256 of a weights file or, if it is missing, of the file of this name that ``pretrain`` has loaded.

    Raises:
        ConfigError: the file is missing, and ``models/pretrained.safetensors`` is not made from one of its name.
    """
    if path.is_file():
        return known_digest(path)
    loaded = read_meta(PRETRAINED).get("weights") or {}
    if loaded.get("source") != path.name:
        raise ConfigError(f"pretrain.weights must be an existing file, got {path}")
    return str(loaded["sha256"])


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
