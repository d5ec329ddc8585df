"""SimSiam, a Siamese network without negative pairs (Chen & He, CVPR 2021)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from longtail.core.params import Auto, Group, key
from longtail.methods.pretraining import PretrainingEntry


@dataclass(frozen=True, kw_only=True)
class SimSiamParams(Group):
    """Parameters of SimSiam."""

    path: ClassVar[str] = "pretrain.simsiam"

    dim: int = key(2048, "dimension of an output", low=1, published="2048")
    projector_layers: int = key(
        2,
        "layers of the projector, which is discarded after pretraining. Each has batch normalization, the last one no "
        "ReLU",
        low=2,
        published="CIFAR 2; ImageNet 3",
    )
    projector_hidden: int | Auto = key(
        "auto",
        "hidden units of the projector. auto: the number of features of the backbone",
        low=1,
        published="ImageNet 2048, the features of its ResNet-50",
    )
    predictor_hidden: int | Auto = key(
        "auto",
        "hidden units of the predictor, a bottleneck that is discarded too. auto: a quarter of `dim`",
        low=1,
        published="512",
    )
    predictor_lr: Literal["constant", "scheduled"] = key(
        "constant",
        "learning rate of the predictor. `constant`: `pretrain.lr`, without warm-up and decay; `scheduled`: as that of "
        "the rest",
        published="constant",
    )


PRETRAINING = PretrainingEntry(
    implementation="longtail.methods.pretraining.simsiam.objective:SimSiam",
    params=SimSiamParams,
    views=2,
    augment="moco",
)
