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
    """Parameters of FSGL."""

    path: ClassVar[str] = "train.fsgl"

    gamma: float = key(
        0.5,
        "strength of the feature scaling: the largest class gets 1 + gamma; 0 turns it off",
        low=0,
        high=10,
        published="0.5 (CIFAR-10), 1 (CIFAR-100), 0.1 (ImageNet-LT)",
    )
    fsm_order: Literal["rank", "index"] = key(
        "rank",
        "what the factor decreases with: the rank of the class by count, or its index. They agree on CIFAR-LT. On "
        "ImageNet-LT the index is unrelated to frequency",
        unused=_without_scaling,
        published="index",
    )
    fsm_variant: Literal["linear", "uniform", "head_half"] = key(
        "linear",
        "`uniform`: 1 + gamma for all classes; `head_half`: linear for the larger half of the classes, 1 for the rest",
        unused=_without_scaling,
        published="linear",
    )
    label_exponent: float = key(
        1.2, "exponent a of the class weights n_k^-a", low=0, high=10, published="1.2; ImageNet-LT 1"
    )
    resample_exponent: float = key(
        0.0,
        "exponent q of the odds n_k^-q of a partner image; 1 balances the classes",
        low=0,
        high=10,
        published="0; ImageNet-LT 0.2",
    )
    consistency_weight: float = key(4.0, "eta, the weight of the consistency loss", low=0, published="4")
    rho: float = key(
        0.05, "radius of SAM; 0 means plain gradient descent, which takes half the time", low=0, published="0.05"
    )
    freeze_bn_second: bool = key(
        False,
        "whether SAM's second pass leaves the batch-norm statistics alone",
        unused=_without_sam,
        published="false",
    )
    cutmix_area_label: bool = key(
        False,
        "whether the labels of a CutMix image are weighted by the pasted area, which is smaller than the drawn share",
        published="false",
    )
    masked_bce_weight: float = key(
        0.0,
        "weight of a masked binary cross-entropy that the released code computes but never uses",
        low=0,
        published="0",
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
