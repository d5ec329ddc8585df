"""All objectives of pretraining by the name that ``pretrain.method`` takes."""

from longtail.methods.objectives.bns import BNS
from longtail.methods.objectives.moco import MoCo
from longtail.methods.objectives.rotation import Rotation
from longtail.train.objective import Objective

PRETRAINING: dict[str, type[Objective]] = {"bns": BNS, "rotation": Rotation, "moco": MoCo}
