"""joint: the stage-1 head as it is."""

from longtail.methods.heads.joint import Joint
from stages.repairs.base import Inputs, Repair, linear_kind


def fit(inputs: Inputs) -> Repair:
    joint = Joint(head=inputs.head).fit(inputs.train.features, inputs.train.labels)
    return Repair(
        linear_kind(joint), joint.weight_, joint.bias_, joint.scores(inputs.test.features), notes=inputs.head_notes
    )
