"""Softmax cross-entropy, the stage-1 objective of Kang et al. 2020."""

from longtail.methods.objectives import ObjectiveEntry

OBJECTIVE = ObjectiveEntry(implementation="longtail.methods.objectives.ce.objective:CrossEntropy")
