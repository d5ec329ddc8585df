"""ncm: the nearest class mean of the training features."""

from longtail.core.head import ClassMeans
from longtail.methods.heads.ncm import NCM
from stages.repairs.base import Inputs, Repair


def fit(inputs: Inputs) -> Repair:
    config = inputs.params.ncm
    ncm = NCM(feature=config.feature, distance=config.distance).fit(inputs.train.features, inputs.train.labels)
    return Repair(
        ClassMeans(ncm.centroids_, ncm.mean_),
        ncm.scores(inputs.test.features),
        likelihood=False,
        notes={"feature": config.feature, "distance": config.distance},
    )
