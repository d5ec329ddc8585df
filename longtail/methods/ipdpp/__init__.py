"""Exact k-DPP sampling for undersampling: IP-DPP (Lin & Yuan, NeurIPS 2025), feature kernels, uniform controls.

Shapes in this package: N items in all classes, n items in one class, k items drawn, D features, R the rank of a feature
kernel.

Each k-DPP is an object that is set up once and then has two methods:

- ``sample(stream)`` returns k distinct, sorted int64 positions.
- ``inclusion_probability()`` returns the exact probability that each item is drawn, (n,) float64.

The paper's Algorithm 1 is not implemented. It stops scanning the eigenvectors early and takes maxima instead of
drawing, so it follows a different distribution and sometimes returns fewer than k items.
"""

from longtail.core.lazy import lazy_names
from longtail.methods.ipdpp.params import IpdppParams
from longtail.methods.stage_methods import StageMethod

METHOD = StageMethod(
    stage="finetune_ipdpp",
    rows=("ipdpp_uniform", "ipdpp"),
    params=IpdppParams,
    rank=20,
    artifact="ipdpp_selection.h5",
    tables="longtail.methods.ipdpp.tables",
    needs_images=True,
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

__getattr__, __dir__ = lazy_names(__name__, _HOME)
