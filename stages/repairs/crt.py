"""crt: a new head, trained on class-balanced batches of stored features or, online, of augmented images."""

import numpy as np

from longtail.heads.crt import CRT, initial_head
from stages.repairs.base import Inputs, Repair, history_arrays, linear_kind, validation_rows


def fit(inputs: Inputs) -> Repair:
    from stages.repairs.online import fit_online, selection_notes, trained_on

    config = inputs.params.crt
    if config.mode == "online":
        start = initial_head(
            inputs.train.num_classes, inputs.train.features.shape[1], inputs.seed, np.dtype(np.float32)
        )
        return fit_online("crt", inputs, config, start)
    crt = CRT(
        config.epochs,
        config.batch_size,
        config.lr,
        config.momentum,
        config.weight_decay,
        config.samples_per_class,
        config.select,
        trained_on(inputs),
        inputs.seed,
    )
    crt.fit(inputs.train.features, inputs.train.labels, *validation_rows(inputs))
    return Repair(
        linear_kind(crt),
        crt.weight_,
        crt.bias_,
        crt.scores(inputs.test.features),
        extra=history_arrays(crt.history_),
        notes=selection_notes(config, crt.selected_epoch_),
    )
