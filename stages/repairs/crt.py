"""crt: a new head, trained on class-balanced batches of stored features or, online, of augmented images."""

import numpy as np

from longtail.methods.heads.crt import CRT, initial_head
from stages.repairs.base import Inputs, Repair, history_arrays, require_val, validation_rows


def fit(inputs: Inputs) -> Repair:
    from stages.repairs.online import fit_online, selection_notes, sgd_arguments

    config = inputs.params.crt
    require_val("crt", config.select, inputs)
    if config.mode == "online":
        start = initial_head(
            inputs.train.num_classes, inputs.train.features.shape[1], inputs.seed, np.dtype(np.float32)
        )
        return fit_online("crt", inputs, config, start)
    crt = CRT(**sgd_arguments(config, inputs))
    crt.fit(inputs.train.features, inputs.train.labels, *validation_rows(inputs))
    return Repair(
        crt.head_,
        crt.scores(inputs.test.features),
        extra=history_arrays(crt.history_),
        notes=selection_notes(config, crt.selected_epoch_),
    )
