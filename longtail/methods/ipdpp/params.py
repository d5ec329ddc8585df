"""Parameters of finetuning on IP-DPP subsets."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from longtail.core.params import key, not_with, only_with
from longtail.train.params import TrainingParams, augment_choices, jitters_nothing

_trains_encoder = only_with(freeze="none")


@dataclass(frozen=True, kw_only=True)
class IpdppParams(TrainingParams):
    """Finetuning on a subset drawn by IP-DPP, and on a uniform one as its control."""

    path: ClassVar[str] = "ipdpp"

    enabled: bool = key(
        True, "false: no finetuning and no rows of it in the table; the other keys may stay as they are"
    )
    sampler: Literal["ipdpp", "uniform_official", "feature_kdpp"] = key(
        "ipdpp",
        "how the subset is drawn. `uniform_official`: what the released code draws. `feature_kdpp` is not part of the "
        "method: it prefers diverse features of the backbone before finetuning, and with `beta` above 0 also the "
        "model's "
        "p, as (`epsilon` - log p)^`beta`",
        published="uniform_official",
    )
    scale: Literal["n", "n2"] = key(
        "n",
        "scale of the kernel: `n` of the paper, or `n2` of the released code, which is uniform to about 1e-4",
        unused=only_with(sampler="ipdpp"),
        published="n2",
    )
    k: int | str = key(
        "10*n_min",
        "largest number of images per class: a number, or a multiple of the smallest class",
        low=1,
        published="50; CIFAR-10 500",
    )
    reselect_every: int = key(10, "epochs between draws", low=1, published="20; CIFAR-10 10")
    p_source: Literal["auto", "head", "model"] = key(
        "auto",
        "where p comes from: the backbone's own `head`, or the current `model`, whose fresh head has nearly uniform "
        "p in "
        "round 0. auto: the head in round 0, then the model",
        published="model",
    )
    beta: float = key(
        0.0,
        "`feature_kdpp`: weight of the information content beside the features of the backbone",
        low=0,
        high=100,
        unused=only_with(sampler="feature_kdpp"),
    )
    epsilon: float = key(
        1e-3,
        "`feature_kdpp`: information content that every image has",
        above=0,
        unused=lambda params: only_with(sampler="feature_kdpp")(params) or not_with(beta=0)(params),
    )
    ridge: float = key(
        1e-3,
        "`feature_kdpp`: added to the diagonal; allows k above the rank of the features",
        low=0,
        unused=only_with(sampler="feature_kdpp"),
    )
    freeze: Literal["none", "encoder"] = key(
        "none", "`encoder`: train the head only, on the cached features", published="none"
    )
    bn_mode: Literal["train", "eval"] = key(
        "train",
        "batch-norm statistics of the backbone: `train`, or `eval` (fixed)",
        unused=_trains_encoder,
        published="train",
    )
    augment: str = key("auto", "as `pretrain.augment`", choices=augment_choices, unused=_trains_encoder)
    jitter_strength: float = key(
        1.0,
        "as `pretrain.jitter_strength`",
        low=0,
        high=2.5,
        unused=lambda params: _trains_encoder(params) or jitters_nothing(params),
    )
    batch_size: int = key(16, "images per step", low=1, published="64")
    select: Literal["last", "best_val"] = key("last", "epoch kept. `best_val`: the first of highest accuracy on val")

    def check(self) -> None:
        super().check()
        if isinstance(self.k, str):
            self.require(
                "k",
                re.fullmatch(r"[1-9]\d* ?\* ?n_min", self.k) is not None,
                "a whole number of images, or a multiple such as 10*n_min",
            )
