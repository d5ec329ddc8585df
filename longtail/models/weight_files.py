"""Weights files, read safely.

``.safetensors`` hold arrays only. Of the others torch rebuilds tensors, plain containers and NumPy scalars and arrays,
and refuses everything else, so no code of a file ever runs.
"""

import argparse
import importlib
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longtail.core.errors import ConfigError

KEY = "pretrain.weights"


def read_file(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The content of a weights file, and the metadata of a ``.safetensors`` file.

    Raises:
        ConfigError: the file is missing or damaged, is no mapping, or holds anything but data.
    """
    if not path.is_file():
        raise ConfigError(f"{KEY} must be an existing file, got {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with torch.serialization.safe_globals(_harmless()):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"(?:GLOBAL|global|type|class)\s+['`]?([A-Za-z_][\w.]*\.\w+)", str(error))
            if found is None:
                raise _damaged(path, str(error).partition("error: ")[2] or error) from error
            raise ConfigError(
                f"{KEY} must be a file of tensors, numbers and plain containers, but {path.name} holds {found[1]}, "
                f"which could run code and was not loaded"
            ) from error
        except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from error
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{KEY} must be a file with a mapping of names to tensors, but {path.name} holds a {type(content).__name__}"
        )
    return content, {}


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception | str) -> ConfigError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return ConfigError(f"{KEY} must be a readable file, but {path.name} is damaged or has another format ({reason})")


def _harmless() -> list[Any]:
    """What may stand beside tensors: NumPy scalars and arrays, and the namespaces of argparse."""
    multiarray = importlib.import_module("numpy._core.multiarray" if "numpy._core" in sys.modules else "numpy.core")
    kinds = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"}
    named = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for core in ("core", "_core")
        if hasattr(multiarray, name)
    ]
    return [*named, np.dtype, np.ndarray, *sorted(kinds, key=str), argparse.Namespace]
