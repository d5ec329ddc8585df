"""Parameters of finetuning on IP-DPP subsets."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from longtail.core.params import key, only_with
from longtail.train.params import TrainingParams


@dataclass(frozen=True, kw_only=True)
class IpdppParams(TrainingParams):
    """Finetuning on a subset drawn by IP-DPP, and on a uniform one as its control."""

    path: ClassVar[str] = "ipdpp"

    sampler: Literal["ipdpp", "uniform_official", "feature_kdpp"] = key(
        "ipdpp", "how the subset is drawn; `uniform_official` is what the released code draws"
    )
    scale: Literal["n", "n2"] = key(
        "n", "scale of the kernel: `n` (paper) or `n2` (released code)", unused=only_with(sampler="ipdpp")
    )
    k: int | str = key(
        "10*n_min", "largest number of images per class: a number, or a multiple of the smallest class", low=1
    )
    reselect_every: int = key(10, "epochs between draws", low=1)
    p_source: Literal["auto", "head", "model"] = key(
        "auto",
        "whose probabilities are used: the backbone's own `head`, or the current `model`. auto: the head in round "
        "0, then "
        "the model",
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
        unused=only_with(sampler="feature_kdpp"),
    )
    ridge: float = key(
        1e-3,
        "`feature_kdpp`: added to the diagonal; allows k above the rank of the features",
        low=0,
        unused=only_with(sampler="feature_kdpp"),
    )
    freeze: Literal["none", "encoder"] = key("none", "`encoder`: train the head only, on the cached features")
    bn_mode: Literal["train", "eval"] = key(
        "train", "batch-norm statistics of the backbone: `train`, or `eval` (fixed)"
    )
    batch_size: int = key(16, "images per step", low=1)
    select: Literal["last", "best_val"] = key("last", "epoch kept. `best_val`: the first of highest accuracy on val")

    def check(self) -> None:
        super().check()
        if isinstance(self.k, str):
            self.require(
                "k",
                re.fullmatch(r"[1-9]\d* ?\* ?n_min", self.k) is not None,
                "a whole number of images, or a multiple such as 10*n_min",
            )
