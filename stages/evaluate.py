"""Measure every method on the test split: summary, details, per-class table and plot tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.head_files import HeadFile, read_head
from longtail.artifacts.left_out import left_out_reason
from longtail.artifacts.predictions import Predictions, read_predictions
from longtail.artifacts.tables import write_csv, write_json
from longtail.core.errors import ArtifactError
from longtail.evaluation import plot_tables
from longtail.evaluation.metrics import DETAIL_KEYS, SUMMARY_KEYS, select_keys, summarize
from longtail.evaluation.report import format_table
from longtail.evaluation.shots import Shots
from longtail.methods.heads import HEADS
from longtail.methods.stage_methods import STAGE_METHODS, StageMethod
from stages.context import Context, run
from stages.paths import HEADS as HEAD_FILES
from stages.paths import METRICS, MODELS, PLOTS, PREDICTIONS
from stages.stored_run import read_class_counts


@dataclass(frozen=True)
class Row:
    """A row of the table: its name, and the stage that writes its predictions."""

    name: str
    made_by: str


def table_rows() -> list[Row]:
    """All registered rows, in the order of the table."""
    heads = [Row(name, f"rebalance@{name}") for name in HEADS.names()]
    return heads + [Row(name, entry.stage) for entry in STAGE_METHODS.entries().values() for name in entry.rows]


def main() -> None:
    shots = Context("evaluate").group(Shots)
    tables = read_tables()
    first = next(iter(tables.values()))
    class_counts = read_class_counts(first)
    counts, names = first.train_counts, class_counts["name"].tolist()
    heads = read_heads(tables)

    measures = {name: summarize(table, counts, shots) for name, table in tables.items()}
    summary = {name: select_keys(row, SUMMARY_KEYS) for name, row in measures.items()}
    details = {name: select_keys(row, DETAIL_KEYS) for name, row in measures.items()}
    notes = {name: dict(head.notes) for name, head in heads.items()}
    network = heads["joint"].network if "joint" in heads else None
    size = network.known() if network is not None else {}
    every_table = list(tables.values())
    plots = {
        "accuracy_by_group": plot_tables.accuracy_by_group(summary),
        "class_profile": plot_tables.class_profile(class_counts),
        "head_curves": plot_tables.head_curves(heads),
        "tau_curve": plot_tables.tau_curve(heads.get("tau"), counts, shots),
        "confusion": plot_tables.confusion(every_table, names, counts),
        "reliability": plot_tables.reliability(every_table),
        "weight_norm": plot_tables.weight_norm(heads, names, counts),
    }
    for name, entry in STAGE_METHODS.entries().items():
        *controls, method = entry.rows
        module, table = entry.load_tables(), tables.get(method)
        artifact = read_artifact(entry, table) if table is not None else None
        plots |= module.plot_tables(artifact, table, names, shots)
        numbers = module.diagnostics(artifact, table, shots) if table is not None else {}
        write_json(METRICS / f"{name}.json", numbers)
        if artifact is not None:
            notes |= {control: dict(artifact.control_notes) for control in controls}
            notes[method] = dict(artifact.notes)

    write_csv(METRICS / "per_class.csv", plot_tables.per_class(every_table, names, counts, shots))
    for name, plot in plots.items():
        write_csv(PLOTS / f"{name}.csv", plot)
    selection = {name: {key: _as_number(value) for key, value in chosen.items()} for name, chosen in notes.items()}
    write_json(METRICS / "selection.json", selection | ({"backbone": size} if size else {}))
    write_json(METRICS / "details.json", details)
    write_json(METRICS / "summary.json", summary)
    print(format_table(summary, {name for name, row in details.items() if row.get("uncalibrated")}, size))


def read_tables() -> dict[str, Predictions]:
    """All prediction tables, checked to be about the same images. Prints which are left out, and why."""
    tables: dict[str, Predictions] = {}
    left_out: dict[str, list[str]] = {}
    for row in table_rows():
        path = PREDICTIONS / f"{row.name}.h5"
        reason = left_out_reason(path, row.made_by)
        if reason is not None:
            left_out.setdefault(reason, []).append(row.name)
            continue
        table = read_predictions(path, row.made_by)
        first = next(iter(tables.values()), table)
        if table.method != row.name:
            raise ArtifactError(path, f"holds the predictions of {table.method}", row.made_by)
        if table.split_digest != first.split_digest:
            raise _mismatch(path, row, "belongs to another split", first)
        if table.num_classes != first.num_classes or not np.array_equal(table.index, first.index):
            raise _mismatch(path, row, "holds other images or classes", first)
        if not np.array_equal(table.label, first.label):
            raise _mismatch(path, row, "holds other labels", first)
        if not np.array_equal(table.train_counts, first.train_counts):
            raise _mismatch(path, row, "was made from other training rows", first)
        tables[row.name] = table
    for reason, names in left_out.items():
        print(f"left out: {', '.join(names)} ({reason})")
    return tables


def _mismatch(path: Path, row: Row, what: str, first: Predictions) -> ArtifactError:
    return ArtifactError(path, f"{what} than the table of {first.method}", row.made_by)


def read_heads(tables: dict[str, Predictions]) -> dict[str, HeadFile]:
    """The head files of the heads among the methods."""
    heads: dict[str, HeadFile] = {}
    for name in HEADS.names():
        if name in tables:
            path, maker = HEAD_FILES / f"{name}.h5", f"rebalance@{name}"
            heads[name] = read_head(path, maker)
            _require_same_split(path, maker, heads[name].split_digest, tables[name])
    return heads


def read_artifact(entry: StageMethod, table: Predictions) -> Any:
    """The artifact of a method, checked to belong to its predictions."""
    path, module = MODELS / entry.artifact, entry.load_tables()
    artifact = module.read(path, entry.stage)
    _require_same_split(path, entry.stage, artifact.split_digest, table)
    if not module.matches(artifact, table):
        raise ArtifactError(path, "holds other rows than the predictions", entry.stage)
    return artifact


def _as_number(value: Scalar) -> Scalar:
    return int(value) if isinstance(value, bool) else value


def _require_same_split(path: Path, made_by: str, split_digest: str, table: Predictions) -> None:
    if split_digest != table.split_digest:
        raise ArtifactError(path, "belongs to another split than the predictions", made_by)


if __name__ == "__main__":
    run(main)
