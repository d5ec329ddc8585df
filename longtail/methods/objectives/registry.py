"""All objectives of backbone training by the name that ``train.objective`` takes."""

from longtail.methods.objectives.cross_entropy import ClassBalanced, CrossEntropy
from longtail.methods.objectives.focal import Focal
from longtail.methods.objectives.fsgl import FSGL
from longtail.methods.objectives.ldam import LDAM
from longtail.methods.objectives.logit_adjustment import BalancedSoftmax, LogitAdjustment
from longtail.methods.objectives.paco import PaCo
from longtail.train.objective import Objective

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
