"""The base head of features without a trained head, and how it was chosen."""

import torch

from longtail.artifacts.digest import Scalar
from longtail.artifacts.features import Features
from longtail.core.head import StandardizedHead
from longtail.methods.heads.softmax_regression import SoftmaxRegression


def fit(train: Features, val: Features, device: torch.device) -> tuple[StandardizedHead, dict[str, Scalar]]:
    """The softmax regression on the training rows and their views, and notes for the head file.

    Its L2 strength is chosen on val, or else on training rows that are held out and given back. The choice does not see
    the views, since a view of a row that is held out would tell. These rows are the same for every ``seed``, because
    otherwise each seed would extract the features again.
    """
    rows = (val.features, val.labels) if len(val.labels) else (None, None)
    print(f"fitting the base head on {len(train.labels)} rows of {train.features.shape[1]} features")
    fitted = SoftmaxRegression(device=str(device)).fit(train.features, train.labels, *rows)
    notes: dict[str, Scalar] = {"selected_on": fitted.selected_on_}
    if train.views is not None:
        notes["views"] = len(train.views)
        fitted = SoftmaxRegression(l2=fitted.l2_, device=str(device)).fit(*train.with_views())
    return fitted.head_, notes
