"""ncm: the nearest class mean of the training features."""

from longtail.methods.heads.ncm import NCM
from stages.repairs.base import Inputs, Repair


def fit(inputs: Inputs) -> Repair:
    config = inputs.params.ncm
    ncm = NCM(feature=config.feature, distance=config.distance).fit(inputs.train.features, inputs.train.labels)
    return Repair(
        "ncm",
        ncm.centroids_,
        None,
        ncm.scores(inputs.test.features),
        likelihood=False,
        extra={"mean": ncm.mean_},
        notes={"feature": config.feature, "distance": config.distance},
    )
