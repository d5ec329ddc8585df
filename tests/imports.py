"""Where the repository is, and its modules."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("longtail", "stages")


def all_modules() -> list[str]:
    """Full names of all modules of the repository, packages included."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = (path.relative_to(ROOT).with_suffix("").parts for path in files)
    return [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names]
