"""Errors that a user can cause and mend. Each message names the key or file, what was given and what is allowed."""


class LongtailError(ValueError):
    """Base of all errors that a stage reports as one sentence instead of a traceback."""


class ConfigError(LongtailError):
    """A parameter is unknown, mistyped, out of range, or contradicts another."""


class DataError(LongtailError):
    """Source images, lists or labels are missing, unreadable or unusable."""


class ArtifactError(LongtailError):
    """A file that a stage made is missing, damaged, or belongs to other inputs."""


class TrainingError(LongtailError):
    """Training cannot go on, for example because the loss is not finite."""
