"""All objectives of pretraining by the name that ``pretrain.method`` takes."""

from longtail.engine.objective import Objective
from longtail.objectives.bns import BNS
from longtail.objectives.moco import MoCo
from longtail.objectives.rotation import Rotation

PRETRAINING: dict[str, type[Objective]] = {"bns": BNS, "rotation": Rotation, "moco": MoCo}
