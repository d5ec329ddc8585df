"""logit_adjustment: the stage-1 head less the log prior."""

from longtail.methods.heads.logit_adjustment import LogitAdjustment
from stages.repairs.base import Inputs, Repair


def fit(inputs: Inputs) -> Repair:
    adjustment = inputs.params.logit_adjustment.adjustment
    head = LogitAdjustment(adjustment, head=inputs.head).fit(inputs.train.features, inputs.train.labels)
    scores = head.scores(inputs.test.features)
    return Repair(head.head_, scores, notes={"adjustment": adjustment})
