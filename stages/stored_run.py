"""What the last run has stored of one row of the table: predictions, training features and class counts, checked."""

import numpy as np
import pandas as pd

from longtail.artifacts.feature_set import features_file
from longtail.artifacts.features import Features, read_features
from longtail.artifacts.predictions import Predictions, read_predictions
from longtail.artifacts.tables import read_csv
from longtail.core.errors import ArtifactError
from stages.paths import CLASS_COUNTS, FEATURES, PREDICTIONS

CLASS_COLUMNS = ("label", "name", "train", "val", "test")


def read_row(name: str, made_by: str) -> tuple[Predictions, Features, list[str]]:
    """The predictions of a row, the training features of the same split, and the class names.

    Raises:
        ArtifactError: a file is missing or damaged, or they belong to different splits.
    """
    path = PREDICTIONS / f"{name}.h5"
    predictions = read_predictions(path, made_by)
    train = read_features(features_file(FEATURES, "train"))
    if train.split_digest != predictions.split_digest:
        raise ArtifactError(path, "belongs to another split than the features", made_by)
    return predictions, train, read_class_counts(predictions)["name"].tolist()


def read_class_counts(table: Predictions) -> pd.DataFrame:
    """label, name, train, val and test of each class, checked against the predictions."""
    test = np.bincount(table.label, minlength=table.num_classes)
    counts = read_csv(CLASS_COUNTS, made_by="subsample", columns=CLASS_COLUMNS, text=("name",))
    for part, expected in (("train", table.train_counts), ("test", test)):
        if not np.array_equal(counts[part], expected):
            raise ArtifactError(CLASS_COUNTS, f"counts other {part} images than the predictions", "subsample")
    return counts
