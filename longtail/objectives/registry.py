"""All objectives by the name that ``train.objective`` takes."""

from longtail.engine.objective import ObjectiveFactory
from longtail.objectives.cross_entropy import CrossEntropy

OBJECTIVES: dict[str, ObjectiveFactory] = {"ce": CrossEntropy}
