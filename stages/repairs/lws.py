"""lws: one scale a class on the stage-1 head, trained as crt is."""

from longtail.methods.heads.lws import LWS
from stages.repairs.base import Inputs, Repair, history_arrays, require_val, validation_rows


def fit(inputs: Inputs) -> Repair:
    from stages.repairs.online import fit_online, selection_notes, sgd_arguments

    config = inputs.params.lws
    require_val("lws", config.select, inputs)
    if config.mode == "online":
        return fit_online("lws", inputs, config, inputs.head)
    lws = LWS(**sgd_arguments(config, inputs), head=inputs.head)
    lws.fit(inputs.train.features, inputs.train.labels, *validation_rows(inputs))
    return Repair(
        lws.head_,
        lws.scores(inputs.test.features),
        extra=history_arrays(lws.history_) | {"scales": lws.scales_},
        notes=selection_notes(config, lws.selected_epoch_),
    )
