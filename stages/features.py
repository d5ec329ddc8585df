"""The feature files and the stage-1 head."""

from longtail.artifacts import feature_set
from longtail.artifacts.feature_set import FeatureSet
from stages.paths import FEATURES


def read_feature_set() -> FeatureSet:
    """Read the files below ``features/`` and check that they belong together."""
    return feature_set.read_feature_set(FEATURES)
