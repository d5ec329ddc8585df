"""tau: the stage-1 weights divided by a power of their norms; the power is selected on val."""

from longtail.methods.heads.tau import TauNorm
from stages.repairs.base import Inputs, Repair, validation_rows


def fit(inputs: Inputs) -> Repair:
    config = inputs.params.tau
    on_test = config.value == "auto" and config.select_on == "test"
    val = (inputs.test.features, inputs.test.labels) if on_test else validation_rows(inputs)
    tau = TauNorm(config.value, config.grid_max, config.grid_step, head=inputs.head, random_state=inputs.seed)
    tau.fit(inputs.train.features, inputs.train.labels, *val)
    return Repair(
        tau.head_,
        tau.scores(inputs.test.features),
        likelihood=False,
        selected_on_test=on_test,
        extra={"curve/tau": tau.tau_grid_, "curve/class_accuracy": tau.class_accuracy_},
        notes={"tau": tau.tau_, "selected_on": "test" if on_test else tau.selected_on_},
    )
