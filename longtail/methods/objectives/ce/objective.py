"""Softmax cross-entropy, the stage-1 objective of Kang et al. 2020."""

from longtail.methods.objectives.weighting import Weighted


class CrossEntropy(Weighted):
    """Plain cross-entropy, with class weights according to ``rule``."""
