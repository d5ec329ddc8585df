"""Measure every method on the test split: summary, details, per-class table and plot tables."""

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from longtail.artifacts.digest import Scalar
from longtail.artifacts.head_files import HeadFile, read_head
from longtail.artifacts.predictions import Predictions, read_predictions
from longtail.artifacts.tables import read_csv, write_csv, write_json
from longtail.core.errors import ArtifactError
from longtail.evaluation import plot_tables
from longtail.evaluation.metrics import DETAIL_KEYS, SUMMARY_KEYS, select_keys, summarize
from longtail.evaluation.report import format_table
from longtail.methods.dlsa import tables as dlsa_tables
from longtail.methods.dlsa.routing_file import RoutingFile, read_routing
from longtail.methods.ipdpp import tables as ipdpp_tables
from longtail.methods.ipdpp.selection_file import SelectionFile, read_selection
from stages.common import CLASS_COUNTS, DLSA_ROUTING, HEADS, IPDPP_SELECTION, PREDICTIONS, params, run

METRICS = Path("metrics")
PLOTS = METRICS / "plots"


class Method(NamedTuple):
    """A row of the table: its prediction table, the stage that makes it, and whether it has a head file."""

    name: str
    made_by: str
    has_head: bool = False


METHODS = (
    Method("joint", "rebalance@joint", has_head=True),
    Method("ncm", "rebalance@ncm", has_head=True),
    Method("crt", "rebalance@crt", has_head=True),
    Method("tau", "rebalance@tau", has_head=True),
    Method("lws", "rebalance@lws", has_head=True),
    Method("logit_adjustment", "rebalance@logit_adjustment", has_head=True),
    Method("dlsa_control", "train_dlsa"),
    Method("dlsa", "train_dlsa"),
    Method("ipdpp_uniform", "finetune_ipdpp"),
    Method("ipdpp", "finetune_ipdpp"),
)


def read_tables() -> dict[str, Predictions]:
    """All prediction tables, proven to be about the same images.

    With foreign features, whose users run the methods they want by hand, the other tables are left out.
    """
    found = {m: read_predictions(p, m.made_by) for m in METHODS if (p := PREDICTIONS / f"{m.name}.h5").is_file()}
    foreign = {method: table for method, table in found.items() if not table.split_digest}
    if foreign:
        left_out = ", ".join(method.name for method in METHODS if method not in foreign)
        print(f"foreign features: {left_out} not run on them and left out" if left_out else "foreign features")
        found = foreign
    tables: dict[str, Predictions] = {}
    for method in foreign or METHODS:
        path = PREDICTIONS / f"{method.name}.h5"
        table = found[method] if method in found else read_predictions(path, method.made_by)
        first = next(iter(tables.values()), table)
        if table.method != method.name:
            raise ArtifactError(path, f"holds the predictions of {table.method}", method.made_by)
        if table.split_digest != first.split_digest:
            raise _other(path, method, "belongs to another split", first)
        if table.num_classes != first.num_classes or not np.array_equal(table.index, first.index):
            raise _other(path, method, "holds other images or classes", first)
        if not np.array_equal(table.label, first.label):
            raise _other(path, method, "holds other labels", first)
        if not np.array_equal(table.train_counts, first.train_counts):
            raise _other(path, method, "was made from other training rows", first)
        tables[method.name] = table
    return tables


def _other(path: Path, method: Method, what: str, first: Predictions) -> ArtifactError:
    return ArtifactError(path, f"{what} than the table of {first.method}", method.made_by)


def read_heads(tables: dict[str, Predictions]) -> dict[str, HeadFile]:
    """The head files of the methods at hand that have one."""
    heads: dict[str, HeadFile] = {}
    for method in METHODS:
        if method.has_head and method.name in tables:
            path = HEADS / f"{method.name}.h5"
            heads[method.name] = read_head(path, method.made_by)
            _same_split(path, method.made_by, heads[method.name].split_digest, tables[method.name])
    return heads


def read_flows(tables: dict[str, Predictions]) -> RoutingFile | None:
    """What DLSA's flows said of every row; None where DLSA is not among the methods."""
    if "dlsa" not in tables:
        return None
    routing = read_routing(DLSA_ROUTING, "train_dlsa")
    table, test = tables["dlsa"], routing.parts["test"]
    _same_split(DLSA_ROUTING, "train_dlsa", routing.split_digest, table)
    pairs = ((test.index, table.index), (test.label, table.label), (routing.train_counts, table.train_counts))
    if not all(np.array_equal(ours, theirs) for ours, theirs in pairs):
        raise ArtifactError(DLSA_ROUTING, "holds other rows than the predictions", "train_dlsa")
    return routing


def read_draws(tables: dict[str, Predictions]) -> SelectionFile | None:
    """What IP-DPP finetuning was trained on; None where it is not among the methods."""
    if "ipdpp" not in tables:
        return None
    draws = read_selection(IPDPP_SELECTION, "finetune_ipdpp")
    _same_split(IPDPP_SELECTION, "finetune_ipdpp", draws.split_digest, tables["ipdpp"])
    if not np.array_equal(draws.train_counts, tables["ipdpp"].train_counts):
        raise ArtifactError(IPDPP_SELECTION, "was made from other training rows", "finetune_ipdpp")
    return draws


def _same_split(path: Path, made_by: str, split_digest: str, table: Predictions) -> None:
    if split_digest != table.split_digest:
        raise ArtifactError(path, "belongs to another split than the predictions", made_by)


def read_class_counts(table: Predictions) -> pd.DataFrame:
    """label, name, train, val and test of each class; for foreign features as far as the predictions tell."""
    test = np.bincount(table.label, minlength=table.num_classes)
    if not table.split_digest:
        label = np.arange(table.num_classes)
        columns = {"label": label, "name": label.astype(str), "train": table.train_counts, "val": 0, "test": test}
        return pd.DataFrame(columns)
    counts = read_csv(
        CLASS_COUNTS, made_by="subsample", columns=["label", "name", "train", "val", "test"], text=["name"]
    )
    for part, expected in (("train", table.train_counts), ("test", test)):
        if not np.array_equal(counts[part], expected):
            raise ArtifactError(CLASS_COUNTS, f"counts other {part} images than the predictions", "subsample")
    return counts


def main() -> None:
    """Run the stage."""
    shots = params().shots
    tables = read_tables()
    first = next(iter(tables.values()))
    class_counts = read_class_counts(first)
    counts, names = first.train_counts, class_counts["name"].tolist()
    heads, flows, draws = read_heads(tables), read_flows(tables), read_draws(tables)

    measures = {name: summarize(table, counts, shots) for name, table in tables.items()}
    summary = {name: select_keys(row, SUMMARY_KEYS) for name, row in measures.items()}
    details = {name: select_keys(row, DETAIL_KEYS) for name, row in measures.items()}
    notes: dict[str, dict[str, Scalar]] = {name: head.notes for name, head in heads.items()}
    notes |= {"dlsa": flows.notes, "dlsa_control": flows.control_notes} if flows else {}
    notes |= {"ipdpp": draws.notes, "ipdpp_uniform": draws.control_notes} if draws else {}
    selection = {
        name: {key: int(value) if isinstance(value, bool) else value for key, value in chosen.items()}
        for name, chosen in notes.items()
    }
    network = next((head.network for head in heads.values() if head.network is not None), None)
    size: dict[str, Scalar] = {} if network is None else asdict(network)
    selection |= {"backbone": size} if size else {}
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
    diagnostics = {}
    if flows is None:
        plots |= dlsa_tables.empty_plot_tables()
    else:
        plots |= dlsa_tables.plot_tables_of(flows, tables["dlsa"], shots)
        diagnostics = dlsa_tables.diagnostics(flows, tables["dlsa"], shots)

    selected = {}
    if draws is None:
        plots |= ipdpp_tables.empty_plot_tables()
    else:
        plots |= ipdpp_tables.plot_tables_of(draws, names, shots)
        selected = ipdpp_tables.diagnostics(draws, shots)

    write_csv(METRICS / "per_class.csv", plot_tables.per_class(every_table, names, counts, shots))
    for name, table in plots.items():
        write_csv(PLOTS / f"{name}.csv", table)
    write_json(METRICS / "dlsa.json", diagnostics)
    write_json(METRICS / "ipdpp.json", selected)
    write_json(METRICS / "selection.json", selection)
    write_json(METRICS / "details.json", details)
    write_json(METRICS / "summary.json", summary)
    print(format_table(summary, {name for name, row in details.items() if row.get("uncalibrated")}, size))


if __name__ == "__main__":
    run(main)
