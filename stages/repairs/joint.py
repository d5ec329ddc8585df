"""joint: the stage-1 head as it is."""

from longtail.methods.heads.joint import Joint
from stages.repairs.base import Inputs, Repair


def fit(inputs: Inputs) -> Repair:
    joint = Joint(head=inputs.head).fit(inputs.train.features, inputs.train.labels)
    return Repair(joint.head_, joint.scores(inputs.test.features), notes=inputs.head_notes)
