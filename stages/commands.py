"""Commands of DVC that start from Python, outside the DAG."""

import os
import sys
from pathlib import Path


def environment() -> dict[str, str]:
    """The environment of such a command. Its ``python`` is this one, even if the virtual environment is not active."""
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    return dict(os.environ) if own in path.split(os.pathsep) else {**os.environ, "PATH": f"{own}{os.pathsep}{path}"}
