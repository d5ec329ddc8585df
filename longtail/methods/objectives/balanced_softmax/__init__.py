"""Balanced softmax (Ren et al., NeurIPS 2020)."""

from longtail.methods.objectives import ObjectiveEntry

OBJECTIVE = ObjectiveEntry(implementation="longtail.methods.objectives.balanced_softmax.objective:BalancedSoftmax")
