"""Train DLSA and its control, the same head without a flow: the chain, the routes, and both prediction tables."""

from typing import Any

import numpy as np

from longtail.artifacts.digest import Scalar, file_digest
from longtail.artifacts.predictions import build_predictions, write_predictions
from longtail.core.seeds import derive_seed
from longtail.methods.dlsa.chain import unique_heads
from longtail.methods.dlsa.estimator import DLSA
from longtail.methods.dlsa.routing_file import RoutedPart, RoutingFile, write_routing
from longtail.methods.dlsa.settings import DlsaParams, starts_from_given
from longtail.methods.dlsa.stored import save_chain
from longtail.train.checkpointing import CheckpointStore
from stages.context import Context, run
from stages.features import FeatureSet, read_feature_set
from stages.left_out import leave_out
from stages.paths import DLSA_MODEL, DLSA_ROUTING, PREDICTIONS


def main() -> None:
    context = Context("train_dlsa")
    params = context.group(DlsaParams)
    if not params.enabled:
        outputs = [DLSA_MODEL, DLSA_ROUTING, *(PREDICTIONS / f"{name}.h5" for name in ("dlsa_control", "dlsa"))]
        leave_out(context, "dlsa.enabled: false", outputs, {})
        return
    found = read_feature_set()
    given = {name: value for name, value in vars(params).items() if name != "enabled"} | {
        "head": found.head if starts_from_given(params.preset, params.start) else None,
        "device": str(context.device),
        "progress": context.runtime.progress,
        "random_state": derive_seed(context.seed, "train_dlsa") % 2**31,
    }
    with context.scratch([file_digest(path) for path in found.files]) as scratch:
        store = CheckpointStore(scratch.folder, context.runtime.checkpoint_every)
        rows = [*found.rows("train"), *found.rows("val"), *found.rows("test")]
        control = DLSA(**given | {"depth": 0}).fit(*rows, store=store, name="dlsa_control")  # type: ignore[arg-type]
        dlsa = DLSA(**given).fit(*rows, store=store, starts=control.starts_, name="dlsa")  # type: ignore[arg-type]
        write(found, control, dlsa)
        scratch.clear()
    context.write_cost()


def write(found: FeatureSet, control: DLSA, dlsa: DLSA) -> None:
    """All outputs of the stage."""
    test = found.test
    for name, model in (("dlsa_control", control), ("dlsa", dlsa)):
        predictions = build_predictions(
            name,
            model.scores(test.features),
            test.labels,
            test.index,
            likelihood=True,
            selected_on_test=model.settings_.select_on == "test",
            split_digest=test.split_digest,
            train_counts=found.train_counts,
        )
        write_predictions(PREDICTIONS / f"{name}.h5", predictions)
    meta = {"split_digest": test.split_digest, "backbone_digest": test.backbone_digest, "preset": dlsa.preset}
    save_chain(DLSA_MODEL, dlsa.chain_, meta)
    levels = dlsa.chain_.levels
    parts = {name: part for name in ("train", "val", "test") if (part := routed_part(found, name, dlsa)) is not None}
    routing = RoutingFile(
        depth=dlsa.depth_,
        num_clusters=dlsa.settings_.clusters,
        split_digest=test.split_digest,
        train_counts=found.train_counts,
        thresholds=np.array([level.threshold for level in levels], np.float64),
        parts=parts,
        histories=histories(control, dlsa),
        notes=notes(dlsa) | chosen_heads(dlsa, dlsa),
        control_notes=chosen_heads(control, dlsa),
    )
    write_routing(DLSA_ROUTING, routing)
    shares = np.bincount(parts["test"].route, minlength=dlsa.depth_ + 2)[1:] / len(test.labels)
    print(f"dlsa: {len(test.labels)} test images, by route {', '.join(f'{share:.0%}' for share in shares)}")


def routed_part(found: FeatureSet, name: str, dlsa: DLSA) -> RoutedPart | None:
    """The routes of a part's rows; None for a part without rows."""
    X, _ = found.rows(name)
    if X is None:
        return None
    part = getattr(found, name)
    traced = dlsa.trace(X)
    return RoutedPart(part.index, part.labels, traced.route, traced.log_density, traced.cluster)


def histories(control: DLSA, dlsa: DLSA) -> dict[str, np.ndarray]:
    """Training curves under the names of the routing file."""
    found: dict[str, Any] = {}
    for number, level in enumerate(dlsa.chain_.levels, start=1):
        found |= {f"flow/{number}/{name}": column for name, column in level.history.columns.items()}
        by_part = level.history.log_likelihood
        found |= {f"flow/{number}/log_likelihood/{part}": means for part, means in by_part.items()}
    for model, prefix in ((dlsa, "head/{}/"), (control, "control/")):
        for trained in unique_heads(model.chain_.heads):
            place = prefix.format(trained.head.routes[0])
            found |= {place + name: column for name, column in trained.history.items()}
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def notes(dlsa: DLSA) -> dict[str, Scalar]:
    """What was chosen for the flows, and on which rows."""
    chosen: dict[str, Scalar] = {"preset": dlsa.preset, "depth": dlsa.depth_, "selected_on": dlsa.selected_on_}
    for number, level in enumerate(dlsa.chain_.levels, start=1):
        chosen |= {f"flow_{number}_epoch": level.epoch, f"flow_{number}_rule": level.rule}
    return chosen


def chosen_heads(model: DLSA, dlsa: DLSA) -> dict[str, Scalar]:
    """The epoch of each head of ``model``, and the rows that chose it."""
    rows = {"val": dlsa.selected_on_}  # without val rows, a slice of the training rows takes their place
    chosen: dict[str, Scalar] = {}
    for trained in unique_heads(model.chain_.heads):
        place = f"head_{trained.head.routes[0]}"
        chosen |= {
            f"{place}_epoch": trained.epoch,
            f"{place}_selected_on": rows.get(trained.selected_on, trained.selected_on),
        }
    return chosen


if __name__ == "__main__":
    run(main)
