"""Whether ``data_root`` is safe from the stages, checked before any work starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longtail.core.errors import ConfigError
from stages.paths import FEATURES, METRICS, MODELS, PREPARED


def check_data_root(content: Mapping[str, Any]) -> None:
    """Refuse a ``data_root`` among the outputs of the stages, which are removed before a stage runs.

    Raises:
        ConfigError: names ``data_root`` and the folder of the outputs.
    """
    root = content.get("data_root")
    if root is None:
        return
    given = Path(root).resolve()
    for folder in (FEATURES, PREPARED, MODELS, METRICS):
        if given.is_relative_to(folder.resolve()):
            raise ConfigError(f"data_root must be a folder of your own, got {root}: the stages write to {folder}")
