"""DLSA: label-space adjustment by flow filters on features (Xu et al., ECCV 2022).

Shape legend of the package: N rows, d features, C classes, K clusters, L levels, B rows of a batch.
"""

from longtail.core.lazy import lazy_names
from longtail.methods.dlsa.settings import DlsaParams
from longtail.methods.stage_methods import StageMethod

METHOD = StageMethod(
    stage="train_dlsa",
    rows=("dlsa_control", "dlsa"),
    params=DlsaParams,
    rank=10,
    artifact="dlsa_routing.h5",
    tables="longtail.methods.dlsa.tables",
)

_HOME = {"DLSA": "estimator", "PRESETS": "settings", "Settings": "settings"}

__all__ = ["DLSA", "PRESETS", "Settings"]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
