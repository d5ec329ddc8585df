"""Tables and numbers about DLSA's flows, on rows that a reader can count; and the templates that draw them."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from longtail.artifacts.predictions import Predictions, build_predictions
from longtail.artifacts.tables import write_csv
from longtail.evaluation.shots import Shots
from longtail.methods.dlsa.routing_file import RoutedPart, RoutingFile
from longtail.methods.dlsa.tables import (
    clusters,
    diagnostics,
    flow_losses,
    likelihood_curves,
    plot_tables,
    route_accuracy,
    route_shares,
)
from tests.imports import ROOT

SHOTS = Shots(many_above=5, few_below=4)
COUNTS = np.array([8, 4, 3, 1])  # many, medium, few, few
NAMES = ["ant", "bee", "cow", "dog"]
NAN = np.nan


def routed(label: list[int], route: list[int], *cluster: list[int]) -> RoutedPart:
    rows, levels = len(label), len(cluster)
    return RoutedPart(
        index=np.arange(rows),
        label=np.array(label),
        route=np.array(route),
        log_likelihood=np.zeros((rows, levels)),
        cluster=np.array(cluster, np.int64).reshape(levels, rows).T,
    )


TRAIN = routed(
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3],
    [1, 1, 1, 1, 2, 2, 3, 3, 1, 2, 2, 3, 3, 3, 3, 1],
    [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 3, 3, 3, 3],
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3],
)
VAL = routed([0, 1, 1], [1, 2, 3], [0, 0, 0], [0, 0, 0])
TEST = routed(
    [0, 0, 1, 1, 2, 2, 3, 3],
    [1, 2, 1, 1, 3, 3, 3, 1],
    [2, 2, 0, 0, 1, 1, 3, 3],
    [0, 0, 0, 0, 0, 0, 0, 0],
)
CORRECT = np.array([True, False, True, False, True, True, False, True])


def losses(level: int, start: float) -> dict[str, np.ndarray]:
    return {
        f"flow/{level}/epoch": np.array([1.0, 2.0]),
        f"flow/{level}/loss": np.array([90.0, 80.0]),
        f"flow/{level}/likelihood": np.array([start, start - 1]),
        f"flow/{level}/purity": np.array([0.5, 0.25]),
        f"flow/{level}/balance": np.array([1 / 3, 0.0]),
    }


ROUTING = RoutingFile(
    depth=2,
    num_clusters=4,
    split_digest="s",
    train_counts=COUNTS,
    thresholds=np.array([-1.25, -np.inf]),
    parts={"train": TRAIN, "val": VAL, "test": TEST},
    histories={
        **losses(1, 4.0),
        **losses(2, 7.0),
        "flow/1/log_likelihood/train": np.array([[-8.0, -6.0, -4.0, -2.0], [-7.0, -5.0, -3.0, -1.0]]),
        "flow/1/log_likelihood/val": np.array([[-9.0, -8.0, NAN, NAN], [-9.5, -7.5, NAN, NAN]]),
        "flow/1/log_likelihood/test": np.array([[-1.0, NAN, -3.0, NAN], [-2.0, NAN, -4.0, NAN]]),
        "flow/2/log_likelihood/train": np.array([[NAN, NAN, -5.0, NAN], [NAN, NAN, -4.0, NAN]]),
        "head/1/loss": np.array([1.0]),
        "control/loss": np.array([1.0]),
    },
    notes={"preset": "small"},
)
WITHOUT_FLOW = dataclasses.replace(
    ROUTING,
    depth=0,
    thresholds=np.zeros(0),
    parts={
        name: dataclasses.replace(
            part,
            route=np.ones_like(part.route),
            log_likelihood=np.zeros((len(part.label), 0)),
            cluster=np.zeros((len(part.label), 0), np.int64),
        )
        for name, part in ROUTING.parts.items()
    },
    histories={"control/loss": np.array([1.0])},
)


@pytest.fixture
def table() -> Predictions:
    predicted = np.where(CORRECT, TEST.label, (TEST.label + 1) % 4)
    return build_predictions(
        "dlsa",
        np.eye(4)[predicted],
        TEST.label,
        TEST.index,
        likelihood=True,
        selected_on_test=False,
        split_digest="s",
        train_counts=COUNTS,
    )


def rows(frame: pd.DataFrame, **where: object) -> list[tuple]:
    """The rows with these values, without those columns."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame.drop(columns=list(where)).to_records(index=False).tolist()


def test_likelihood_of_a_group_is_the_mean_of_its_classes_means() -> None:
    assert rows(likelihood_curves(ROUTING, SHOTS), level=1, part="train") == [
        ("many", 1, -8.0),
        ("many", 2, -7.0),
        ("medium", 1, -6.0),
        ("medium", 2, -5.0),
        ("few", 1, -3.0),
        ("few", 2, -2.0),
    ]


def test_likelihood_leaves_out_classes_without_rows_and_groups_without_classes() -> None:
    frame = likelihood_curves(ROUTING, SHOTS)
    assert rows(frame, level=1, part="val") == [
        ("many", 1, -9.0),
        ("many", 2, -9.5),
        ("medium", 1, -8.0),
        ("medium", 2, -7.5),
    ]
    assert rows(frame, level=1, part="test") == [("many", 1, -1.0), ("many", 2, -2.0), ("few", 1, -3.0), ("few", 2, -4)]
    assert rows(frame, level=2) == [("train", "few", 1, -5.0), ("train", "few", 2, -4.0)]


def test_groups_follow_the_shots() -> None:
    everything_few = likelihood_curves(ROUTING, Shots(many_above=100, few_below=20))
    assert rows(everything_few, level=1, part="train") == [("few", 1, -5.0), ("few", 2, -4.0)]
    assert set(route_shares(ROUTING, Shots(many_above=2, few_below=2))["group"]) == {"many", "few"}


def test_losses_are_the_three_of_each_level_and_epoch() -> None:
    frame = flow_losses(ROUTING)
    assert rows(frame, level=1) == [
        ("likelihood", 1, 4.0),
        ("likelihood", 2, 3.0),
        ("purity", 1, 0.5),
        ("purity", 2, 0.25),
        ("balance", 1, 0.333333),
        ("balance", 2, 0.0),
    ]
    assert rows(frame, level=2, loss="likelihood") == [(1, 7.0), (2, 6.0)]


def test_clusters_hold_size_and_purity_of_training_rows_without_the_empty_ones() -> None:
    frame = clusters(ROUTING)
    assert rows(frame, level=1, measure="size") == [(0, 8.0), (1, 4.0), (3, 4.0)]
    assert rows(frame, level=1, measure="purity") == [(0, 75.0), (1, 50.0), (3, 75.0)]
    assert rows(frame, level=2, measure="size") == [(0, 4.0), (1, 4.0), (2, 4.0), (3, 4.0)]
    assert rows(frame, level=2, measure="purity") == [(0, 100.0), (1, 100.0), (2, 100.0), (3, 75.0)]


def test_route_shares_are_those_of_the_groups_rows_by_part() -> None:
    frame = route_shares(ROUTING, SHOTS)
    share = {key: group["share"].tolist() for key, group in frame.groupby(["part", "group"])}
    assert share == {
        ("train", "many"): [50.0, 25.0, 25.0],
        ("train", "medium"): [25.0, 50.0, 25.0],
        ("train", "few"): [25.0, 0.0, 75.0],
        ("val", "many"): [100.0, 0.0, 0.0],
        ("val", "medium"): [0.0, 50.0, 50.0],
        ("test", "many"): [50.0, 50.0, 0.0],
        ("test", "medium"): [100.0, 0.0, 0.0],
        ("test", "few"): [25.0, 0.0, 75.0],
    }
    assert frame["route"].tolist() == [1, 2, 3] * len(share)


def test_accuracy_by_route_counts_images_alike_and_leaves_out_what_holds_none(table: Predictions) -> None:
    assert rows(route_accuracy(ROUTING, table, SHOTS)) == [
        (1, "many", 1, 100.0),
        (1, "medium", 2, 50.0),
        (1, "few", 1, 100.0),
        (2, "many", 1, 0.0),
        (3, "few", 3, 66.67),
    ]


def test_diagnostics_of_levels_and_routes(table: Predictions) -> None:
    assert diagnostics(ROUTING, table, SHOTS) == {
        "level_1": {
            "threshold": -1.25,
            "cluster_entropy": 0.75,  # shares 1/2, 1/4, 1/4: 1.5 of 2 bits
            "mean_purity": 68.75,
            "max_purity": 75.0,
            "nmi": 1.0,  # the test rows' clusters are their classes under other numbers
        },
        "level_2": {"cluster_entropy": 1.0, "mean_purity": 93.75, "max_purity": 100.0, "nmi": 0.0},
        "route_1": {"train_share": 37.5, "test_share": 50.0, "accuracy": 75.0},
        "route_2": {"train_share": 25.0, "test_share": 12.5, "accuracy": 0.0},
        "route_3": {"train_share": 37.5, "test_share": 37.5, "accuracy": 66.67},
        "routing": {"largest_share_gap": 50.0},
    }


def test_route_without_test_rows_has_no_accuracy(table: Predictions) -> None:
    test = dataclasses.replace(TEST, route=np.ones(8, np.int64))
    routing = dataclasses.replace(ROUTING, parts={"train": TRAIN, "test": test})
    found = diagnostics(routing, table, SHOTS)
    assert found["route_1"]["accuracy"] == 62.5
    assert found["route_3"] == {"train_share": 37.5, "test_share": 0.0}
    assert "routing" not in found, "the gap is between train and val, and there is no val"
    assert set(route_accuracy(routing, table, SHOTS)["route"]) == {1}


def test_a_single_cluster_has_entropy_0_and_is_finite(table: Predictions) -> None:
    parts = {name: dataclasses.replace(p, cluster=np.zeros_like(p.cluster)) for name, p in ROUTING.parts.items()}
    found = diagnostics(dataclasses.replace(ROUTING, num_clusters=1, parts=parts), table, SHOTS)
    assert found["level_1"]["cluster_entropy"] == 0.0
    assert found["level_1"]["mean_purity"] == found["level_1"]["max_purity"] == 50.0


def test_without_a_flow_only_the_route_of_the_head_is_left(table: Predictions) -> None:
    frames = plot_tables(WITHOUT_FLOW, table, NAMES, SHOTS)
    for name in ("dlsa_likelihood", "dlsa_losses", "dlsa_clusters"):
        assert frames[name].empty
        assert list(frames[name].columns) == list(plot_tables(ROUTING, table, NAMES, SHOTS)[name].columns)
    assert rows(frames["dlsa_routes"], part="test") == [(1, "many", 100.0), (1, "medium", 100.0), (1, "few", 100.0)]
    assert diagnostics(WITHOUT_FLOW, table, SHOTS) == {
        "route_1": {"train_share": 100.0, "test_share": 100.0, "accuracy": 62.5},
        "routing": {"largest_share_gap": 0.0},
    }


def test_empty_tables_have_the_columns_of_full_ones(table: Predictions) -> None:
    full, empty = plot_tables(ROUTING, table, NAMES, SHOTS), plot_tables(None, None, NAMES, SHOTS)
    assert {name: list(frame.columns) for name, frame in empty.items()} == {
        name: list(frame.columns) for name, frame in full.items()
    }
    assert all(frame.empty for frame in empty.values())
    assert not any(frame.empty for frame in full.values())


def test_no_table_has_missing_values_or_columns_of_dvc(table: Predictions, tmp_path: Path) -> None:
    for name, frame in plot_tables(ROUTING, table, NAMES, SHOTS).items():
        write_csv(tmp_path / "a.csv", frame)
        found = pd.read_csv(tmp_path / "a.csv")
        assert len(found) == len(frame)
        assert not found.isna().any().any(), name
        assert np.isfinite(found.select_dtypes("number")).all().all(), name
        assert not {"rev", "filename", "field"} & set(frame.columns)


PLOTS = {
    path.removeprefix("plots/").removesuffix(".csv"): settings
    for plot in yaml.safe_load((ROOT / "metrics/dvc.yaml").read_text())["plots"]
    if isinstance(plot, dict)
    for path, settings in plot.items()
    if "/dlsa_" in path
}


def test_every_table_is_a_plot_of_dvc_and_the_other_way_round() -> None:
    assert set(PLOTS) == set(plot_tables(None, None, NAMES, SHOTS))


@pytest.mark.parametrize("name", PLOTS)
def test_template_names_only_columns_that_its_table_has(name: str) -> None:
    settings = PLOTS[name]
    text = (ROOT / ".dvc/plots" / f"{settings['template']}.json").read_text("utf-8")
    for axis in ("x", "y"):
        text = text.replace(f"<DVC_METRIC_{axis.upper()}>", settings[axis])
    content = json.loads(text)
    assert content["data"]["values"] == "<DVC_METRIC_DATA>"
    columns = set(plot_tables(None, None, NAMES, SHOTS)[name].columns)
    computed = set(re.findall(r'"as": "(\w+)"', text))
    assert not computed & columns
    assert set(re.findall(r"datum\['([^']+)'\]", text)) <= columns
    used = set(re.findall(r'"field": "([^"]+)"', text))
    assert used <= columns | computed | {"rev"}
    assert "rev" in used, "revisions lie over each other otherwise"
    assert {settings["x"], settings["y"]} <= columns
