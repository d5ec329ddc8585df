"""Feature scaling guided learning (Wang et al. 2024); GLMC (Du et al., CVPR 2023) with `gamma: 0` and `rho: 0`."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from longtail.core.params import Group, key
from longtail.methods.objectives import ObjectiveEntry


def _without_scaling(params: "FSGLParams") -> str:
    return "gamma: 0" if params.gamma == 0 else ""


def _without_sam(params: "FSGLParams") -> str:
    return "rho: 0" if params.rho == 0 else ""


@dataclass(frozen=True, kw_only=True)
class FSGLParams(Group):
    """Parameters of FSGL. The released values are the defaults unless a meaning names them."""

    path: ClassVar[str] = "train.fsgl"

    gamma: float = key(
        0.5,
        "strength of the feature scaling: 1 + gamma for the largest class; 0 turns it off. Released: 0.5 (CIFAR-10), "
        "1 (CIFAR-100), 0.1 (ImageNet-LT)",
        low=0,
        high=10,
    )
    fsm_order: Literal["rank", "index"] = key(
        "rank",
        "the factor falls with the rank of the class by its count, or with its `index` (as released; on ImageNet-LT "
        "the "
        "index has nothing to do with frequency)",
        unused=_without_scaling,
    )
    fsm_variant: Literal["linear", "uniform", "head_half"] = key(
        "linear",
        "`uniform`: 1 + gamma for all classes; `head_half`: linear for the larger half of the classes, 1 for the "
        "others",
        unused=_without_scaling,
    )
    label_exponent: float = key(1.2, "a of the class weights n_k^-a. Released: 1.2; 1 (ImageNet-LT)", low=0, high=10)
    resample_exponent: float = key(
        0.0,
        "q of the odds n_k^-q of a partner image; 1 balances its classes. Released: 0; 0.2 (ImageNet-LT)",
        low=0,
        high=10,
    )
    consistency_weight: float = key(4.0, "eta, weight of the mixture consistency", low=0)
    rho: float = key(0.05, "radius of SAM; 0 is plain descent, in half the time", low=0)
    freeze_bn_second: bool = key(
        False, "keep SAM's second pass out of the running batch-norm statistics", unused=_without_sam
    )
    cutmix_area_label: bool = key(
        False, "label a CutMix image by its pasted area, which is smaller than the drawn share"
    )
    masked_bce_weight: float = key(
        0.0, "weight of a masked binary cross-entropy that the release computes and never uses", low=0
    )


def _check_head(train: Any, own: FSGLParams) -> None:
    if own.gamma > 0:
        train.require(
            "head",
            train.head_kind == "linear",
            "linear (or auto) with train.objective: fsgl, whose feature scaling a cosine head cannot see",
        )


OBJECTIVE = ObjectiveEntry(
    implementation="longtail.methods.objectives.fsgl.objective:FSGL",
    params=FSGLParams,
    views=2,
    weighted=False,
    check=_check_head,
)
