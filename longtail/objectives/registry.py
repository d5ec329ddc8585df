"""All objectives of backbone training by the name that ``train.objective`` takes."""

from longtail.engine.objective import Objective
from longtail.objectives.cross_entropy import ClassBalanced, CrossEntropy
from longtail.objectives.focal import Focal
from longtail.objectives.fsgl import FSGL
from longtail.objectives.ldam import LDAM
from longtail.objectives.logit_adjustment import BalancedSoftmax, LogitAdjustment
from longtail.objectives.paco import PaCo

OBJECTIVES: dict[str, type[Objective]] = {
    "ce": CrossEntropy,
    "focal": Focal,
    "class_balanced": ClassBalanced,
    "ldam": LDAM,
    "balanced_softmax": BalancedSoftmax,
    "logit_adjustment": LogitAdjustment,
    "paco": PaCo,
    "fsgl": FSGL,
}
