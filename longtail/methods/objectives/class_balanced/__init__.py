"""Cross-entropy weighted by the effective number of samples (Cui et al., CVPR 2019)."""

from longtail.methods.objectives import ObjectiveEntry

OBJECTIVE = ObjectiveEntry(
    implementation="longtail.methods.objectives.class_balanced.objective:ClassBalanced", always_weighted=True
)
