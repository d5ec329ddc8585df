"""Exact k-DPP sampling for undersampling: IP-DPP (Lin & Yuan, NeurIPS 2025), feature kernels, uniform controls.

Shape legend of the package: N items of all classes, n items of one class, k items drawn, D features, R rank of a
feature kernel. Every k-DPP is an object that is set up once; then ``sample(stream)`` gives k distinct, sorted int64
positions and ``inclusion_probability()`` the exact probability of each item to be drawn, (n,) float64.

The paper's Algorithm 1 is not offered: it stops scanning the eigenvectors early and takes maxima instead of drawing,
so that it follows another distribution and sometimes returns fewer than k items.
"""

import importlib
from typing import Any

from longtail.methods.ipdpp.params import IpdppParams
from longtail.methods.stage_methods import StageMethod

METHOD = StageMethod(
    stage="finetune_ipdpp",
    rows=("ipdpp_uniform", "ipdpp"),
    params=IpdppParams,
    rank=20,
    artifact="ipdpp_selection.h5",
    tables="longtail.methods.ipdpp.tables",
)

_HOME = {
    "DPPyKDPP": "dense",
    "IPDPPSampler": "sampler",
    "Information": "information",
    "LowRankKDPP": "lowrank",
    "RankOneKDPP": "structured",
    "Selection": "selection",
    "ipdpp_kernel": "information",
    "log_det_subset": "structured",
    "select": "selection",
    "uniform": "controls",
    "uniform_official": "controls",
}

__all__ = [
    "DPPyKDPP",
    "IPDPPSampler",
    "Information",
    "LowRankKDPP",
    "RankOneKDPP",
    "Selection",
    "ipdpp_kernel",
    "log_det_subset",
    "select",
    "uniform",
    "uniform_official",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
