"""Errors that a user can cause and fix. Each message is one sentence that names the key or the file."""

from pathlib import Path


class LongtailError(ValueError):
    """Base of all errors that a stage reports as one sentence instead of a traceback."""


class ConfigError(LongtailError):
    """A parameter is unknown, has the wrong type, is out of range, or contradicts another one."""


class DataError(LongtailError):
    """Source images, lists or labels are missing, unreadable or unusable."""


class ArtifactError(LongtailError):
    """A file that a stage makes is missing, damaged, or belongs to other inputs.

    The message is ``PATH PROBLEM``. How to make the file again is left to whoever runs the stages.

    Attributes:
        path: the file, or the files joined by "and".
        problem: the rest of the sentence, e.g. ``is missing``.
        maker: the stage that makes the file, e.g. ``rebalance@crt``; None if no stage makes it.
        missing: whether the file does not exist, so that the stage has not run yet.
    """

    def __init__(self, path: str | Path, problem: str, maker: str | None = None, missing: bool = False) -> None:
        super().__init__(path, problem, maker, missing)  # all of them, so that a copy from another process is complete
        self.path, self.problem, self.maker, self.missing = str(path), problem, maker, missing

    def __str__(self) -> str:
        return f"{self.path} {self.problem}"


class TrainingError(LongtailError):
    """Training cannot continue, for example because the loss is not finite."""
