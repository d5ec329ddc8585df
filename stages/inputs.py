"""The features that work on features starts from."""

from longtail.artifacts import feature_set
from longtail.artifacts.feature_set import FeatureSet
from stages.common import FEATURES

__all__ = ["FeatureSet", "read_feature_set"]


def read_feature_set() -> FeatureSet:
    """Read and check the files below ``features/``."""
    return feature_set.read_feature_set(FEATURES)
