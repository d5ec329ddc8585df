"""Tables and numbers about IP-DPP's subsets, on images that a reader can count; and the templates that draw them."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from longtail.artifacts.predictions import build_predictions
from longtail.artifacts.tables import write_csv, write_json
from longtail.evaluation.metrics import group_of
from longtail.evaluation.plot_tables import class_profile
from longtail.evaluation.shots import Shots
from longtail.methods.ipdpp.selection import select
from longtail.methods.ipdpp.selection_file import SelectionFile
from longtail.methods.ipdpp.tables import (
    diagnostics,
    inclusion_curves,
    plot_tables,
    probability_histogram,
    subset_counts,
)
from tests.imports import ROOT

SHOTS = Shots(many_above=5, few_below=3)
NAMES = ["ant", "bee", "cow", "dog"]


def picks(*positions: int, size: int = 13) -> np.ndarray:
    return np.isin(np.arange(size), positions)


# Classes of 4, 6, 2 and 1 images (medium, many, few, few), of which 3 are kept; they lie in no order.
LABEL = np.array([1, 0, 1, 2, 1, 0, 3, 1, 0, 2, 1, 0, 1])
P_FIRST = np.array([0.11, 0.02, 0.12, 0.5, 0.13, 0.04, 0.9, 0.61, 0.03, 0.7, 0.62, 0.01, 0.99])
P_LAST = np.array([0.1, 0.8, 0.2, 0.5, 0.3, 0.6, 0.25, 0.4, 0.4, 0.75, 0.5, 0.2, 0.6])
LAST_INCLUSION = np.array([0.8, 0.6, 0.7, 1, 0.55, 0.7, 1, 0.4, 0.8, 1, 0.35, 0.9, 0.2])
SELECTION = SelectionFile(
    split_digest="s",
    train_counts=np.array([4, 6, 2, 1]),
    index=np.arange(13) * 2,
    label=LABEL,
    epochs=np.array([0, 5, 10]),
    log_probability=np.log([P_FIRST, np.full(13, 0.5), P_LAST]),
    inclusion_probability=np.array(
        [np.array([0.75, 0.5, 1, 1])[LABEL], np.array([0.75, 0.5, 1, 1])[LABEL], LAST_INCLUSION]
    ),
    selected=np.array(
        [
            picks(1, 5, 8, 0, 2, 4, 3, 9, 6),
            picks(1, 5, 8, 0, 2, 10, 3, 9, 6),  # of the drawn classes, 5 of 6 were in round 0
            picks(5, 8, 11, 0, 2, 7, 3, 9, 6),  # 4 of 6 were in round 1
        ]
    ),
    control=np.array([picks(1, 5, 8, 7, 10, 12, 3, 9, 6)] * 2 + [picks(1, 5, 11, 4, 10, 12, 3, 9, 6)]),
)
TABLE = build_predictions(
    "ipdpp",
    np.eye(4),
    np.arange(4),
    np.arange(4),
    likelihood=True,
    selected_on_test=False,
    split_digest="s",
    train_counts=SELECTION.train_counts,
)


def drawn_from(
    counts: list[int], k: Any = "10*n_min", rounds: int = 2, sampler: str = "ipdpp", seed: int = 0
) -> SelectionFile:
    """A file as the stage makes it, with random p that rises from round to round."""
    stream = np.random.default_rng(seed)
    label = stream.permutation(np.repeat(np.arange(len(counts)), counts))
    log_p = np.log(stream.beta(0.5 + np.arange(rounds)[:, None], 0.5, (rounds, len(label))))
    drawn = [select(label, k, seed=seed, round=r, log_probability=log_p[r], sampler=sampler) for r in range(rounds)]
    control = [select(label, k, seed=seed + 1, round=r, sampler="uniform") for r in range(rounds)]
    return SelectionFile(
        split_digest="s",
        train_counts=np.array(counts),
        index=np.arange(len(label)),
        label=label,
        epochs=np.arange(rounds),
        log_probability=log_p,
        inclusion_probability=np.array([one.inclusion_probability for one in drawn]),
        selected=np.array([picks(*one.indices, size=len(label)) for one in drawn]),
        control=np.array([picks(*one.indices, size=len(label)) for one in control]),
    )


def numbers(selection: SelectionFile, shots: Shots) -> dict[str, Any]:
    return diagnostics(selection, TABLE, shots)


def full_tables(selection: SelectionFile) -> dict[str, pd.DataFrame]:
    return plot_tables(selection, TABLE, NAMES, SHOTS)


def one_round(selection: SelectionFile, number: int) -> SelectionFile:
    arrays = ("epochs", "log_probability", "inclusion_probability", "selected", "control")
    changes: dict[str, Any] = {name: getattr(selection, name)[[number]] for name in arrays}
    return dataclasses.replace(selection, **changes)


def rows(frame: pd.DataFrame, **where: object) -> list[tuple]:
    """The rows with these values, without those columns."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame.drop(columns=list(where)).to_records(index=False).tolist()


def filled(frame: pd.DataFrame, **where: object) -> list[tuple]:
    """The bins of a histogram that hold images."""
    return rows(frame[frame["share"] > 0], **where)


def test_histogram_is_the_share_of_a_groups_images_in_bins_of_a_twentieth() -> None:
    frame = probability_histogram(SELECTION, SHOTS)
    assert filled(frame, round=0, group="many", images="all") == [(0.125, 50.0), (0.625, 33.33), (0.975, 16.67)]
    assert filled(frame, round=0, group="many", images="selected") == [(0.125, 100.0)]
    assert filled(frame, round=0, group="medium", images="all") == [(0.025, 100.0)]
    # Two classes: images count alike.
    assert filled(frame, round=0, group="few", images="all") == [(0.525, 33.33), (0.725, 33.33), (0.925, 33.33)]
    selected = filled(frame, round=2, group="medium", images="selected")
    assert len(selected) == 3 and {share for _, share in selected} == {33.33}


def test_histogram_has_every_bin_of_the_first_and_the_last_round() -> None:
    frame = probability_histogram(SELECTION, SHOTS)
    assert set(frame["round"]) == {0, 2}
    for _, part in frame.groupby(["round", "group", "images"]):
        np.testing.assert_allclose(part["probability"], np.arange(0.025, 1, 0.05), atol=1e-12)
        # Two decimals each, and at most four bins are filled.
        assert part["share"].sum() == pytest.approx(100, abs=0.021)
    assert len(frame) == 2 * 3 * 3 * 20


def test_histogram_shows_the_draws_of_the_method_and_of_its_control() -> None:
    frame = probability_histogram(SELECTION, SHOTS)
    groups = group_of(SELECTION.train_counts, SHOTS)[SELECTION.label]
    for number, drawn in ((0, SELECTION.selected[0]), (2, SELECTION.selected[2])):
        for images, member in (("selected", drawn), ("control", SELECTION.control[number])):
            for group in set(groups):
                p = np.exp(SELECTION.log_probability[number][member & (groups == group)])
                expected = 100 * np.bincount((p * 20).astype(int), minlength=20) / len(p)  # no p here is 1
                found = frame[(frame["round"] == number) & (frame["group"] == group) & (frame["images"] == images)]
                np.testing.assert_allclose(found["share"], expected, atol=0.006)


def test_probabilities_of_0_and_1_fall_in_the_outer_bins() -> None:
    with np.errstate(divide="ignore"):
        log_p = np.log(np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]))
    selection = dataclasses.replace(SELECTION, log_probability=np.array([log_p] * 3))
    frame = probability_histogram(selection, SHOTS)
    assert filled(frame, round=0, group="many", images="all") == [(0.025, 83.33), (0.975, 16.67)]
    assert filled(frame, round=0, group="medium", images="all") == [(0.975, 100.0)]


def test_groups_without_classes_are_left_out_and_follow_the_shots() -> None:
    frame = probability_histogram(SELECTION, Shots(many_above=100, few_below=4))
    assert set(frame["group"]) == {"medium", "few"}
    assert set(numbers(SELECTION, Shots(many_above=100, few_below=50))) >= {"few"}
    assert not {"many", "medium"} & set(numbers(SELECTION, Shots(many_above=100, few_below=50)))


def test_single_round_is_first_and_last() -> None:
    frames = full_tables(one_round(SELECTION, 2))
    assert set(frames["ipdpp_probability"]["round"]) == set(frames["ipdpp_inclusion"]["round"]) == {0}
    assert filled(frames["ipdpp_probability"], round=0) == filled(probability_histogram(SELECTION, SHOTS), round=2)


def test_inclusion_of_the_drawn_classes_rises_in_p_beside_the_uniform_draws() -> None:
    frame = inclusion_curves(SELECTION, SHOTS)
    assert rows(frame, round=2) == [
        (0, "medium", 0.2, 0.9, 0.75),
        (0, "medium", 0.4, 0.8, 0.75),
        (0, "medium", 0.6, 0.7, 0.75),
        (0, "medium", 0.8, 0.6, 0.75),
        (1, "many", 0.1, 0.8, 0.5),
        (1, "many", 0.2, 0.7, 0.5),
        (1, "many", 0.3, 0.55, 0.5),
        (1, "many", 0.4, 0.4, 0.5),
        (1, "many", 0.5, 0.35, 0.5),
        (1, "many", 0.6, 0.2, 0.5),
    ]
    assert set(frame["round"]) == {0, 2}
    assert {label for label, *_ in rows(frame, round=0)} == {0, 1}, "classes kept whole have no draw"


def test_uniform_is_the_mean_inclusion_of_a_class() -> None:
    frame = inclusion_curves(drawn_from([60, 45, 20, 3]), SHOTS)
    for _, part in frame.groupby(["round", "class"]):
        # Six digits are written.
        assert part["inclusion"].mean() == pytest.approx(part["uniform"].iloc[0], rel=1e-5)
        assert part["probability"].is_monotonic_increasing and part["inclusion"].is_monotonic_decreasing
    assert set(zip(frame["class"], frame["uniform"], strict=True)) == {(0, 0.5), (1, 0.666667)}


def test_a_large_class_gives_60_points_over_the_whole_range_of_its_p() -> None:
    selection = drawn_from([500, 61, 60, 59, 5])
    p = np.arange(1, 501) / 501
    log_p = np.array(selection.log_probability)
    log_p[:, selection.label == 0] = np.log(np.random.default_rng(0).permutation(p))
    frame = inclusion_curves(dataclasses.replace(selection, log_probability=log_p), SHOTS)
    assert frame.groupby("class").size().to_dict() == {0: 120, 1: 120, 2: 120, 3: 118}
    for number in (0, 1):
        found = frame[(frame["round"] == number) & (frame["class"] == 0)]["probability"].to_numpy()
        places = np.rint(found * 501) - 1
        assert places[0] == 0 and places[-1] == 499
        assert set(np.diff(places)) == {8, 9}, "499 / 59 apart"


def test_many_drawn_classes_share_the_points() -> None:
    frame = inclusion_curves(drawn_from([70] * 400 + [2], rounds=1), SHOTS)
    assert frame.groupby("class").size().tolist() == [15] * 400


def test_counts_of_the_training_set_and_of_the_last_subset_by_rank() -> None:
    assert rows(subset_counts(SELECTION, NAMES)) == [
        ("training set", 1, 1, "bee", 6),
        ("training set", 2, 0, "ant", 4),
        ("training set", 3, 2, "cow", 2),
        ("training set", 4, 3, "dog", 1),
        ("subset", 1, 1, "bee", 3),
        ("subset", 2, 0, "ant", 3),
        ("subset", 3, 2, "cow", 2),
        ("subset", 4, 3, "dog", 1),
    ]


def test_ranks_are_those_of_the_class_profile() -> None:
    counts = [5, 9, 5, 0, 9, 1]
    names = [f"c{label}" for label in range(6)]
    profile = class_profile(pd.DataFrame({"label": range(6), "name": names, "train": counts, "val": 0, "test": 1}))
    label = np.repeat(np.arange(6), counts)
    every = np.ones((1, len(label)))
    selection = SelectionFile(
        "s", np.array(counts), label, label, np.zeros(1, int), -every, every, every > 0, every > 0
    )
    found = subset_counts(selection, names)
    for images in ("training set", "subset"):
        assert rows(found, images=images) == rows(profile, split="train")


def test_diagnostics_are_class_means_of_the_last_round() -> None:
    found = numbers(SELECTION, SHOTS)
    log = np.log
    assert found == {
        "images": 9,
        "rounds": 3,
        "classes_drawn": 2,
        "many": {
            "probability_all": 0.35,
            "probability_selected": pytest.approx(0.7 / 3, rel=1e-5),  # 0.1, 0.2, 0.4
            "probability_control": pytest.approx(1.4 / 3, rel=1e-5),  # 0.3, 0.5, 0.6
            "information_all": pytest.approx(-log(0.1 * 0.2 * 0.3 * 0.4 * 0.5 * 0.6) / 6, rel=1e-5),
            "information_selected": pytest.approx(-log(0.1 * 0.2 * 0.4) / 3, rel=1e-5),
            "information_control": pytest.approx(-log(0.3 * 0.5 * 0.6) / 3, rel=1e-5),
            "inclusion_ratio": 4.0,
        },
        "medium": {
            "probability_all": 0.5,
            "probability_selected": 0.4,  # 0.6, 0.4, 0.2
            "probability_control": pytest.approx(1.6 / 3, rel=1e-5),  # 0.8, 0.6, 0.2
            "information_all": pytest.approx(-log(0.2 * 0.4 * 0.6 * 0.8) / 4, rel=1e-5),
            "information_selected": pytest.approx(-log(0.6 * 0.4 * 0.2) / 3, rel=1e-5),
            "information_control": pytest.approx(-log(0.8 * 0.6 * 0.2) / 3, rel=1e-5),
            "inclusion_ratio": 1.5,
        },
        "overlap_between_rounds": 75.0,  # 5 of 6 and 4 of 6
        "overlap_expected": 62.5,  # (3 * 3 / 4 + 3 * 3 / 6) / 6
    }


def test_classes_of_a_group_count_alike_in_its_means() -> None:
    together = numbers(SELECTION, Shots(many_above=3, few_below=2))["many"]
    assert isinstance(together, dict)
    assert together["probability_all"] == 0.425  # of 0.35 and 0.5, whatever their 6 and 4 images
    assert together["probability_selected"] == pytest.approx((0.7 / 3 + 0.4) / 2, rel=1e-5)
    assert together["inclusion_ratio"] == 2.75


def test_overlap_is_that_of_chance_where_draws_are_uniform() -> None:
    found = numbers(drawn_from([40, 30, 25, 4], k=20, rounds=300, sampler="uniform"), SHOTS)
    # 60 images a round overlap by 1.9 on hypergeometric spread, or 3.1 %: 0.18 % for the mean of 299 rounds.
    assert found["overlap_between_rounds"] == pytest.approx(found["overlap_expected"], abs=0.8)
    assert found["overlap_expected"] == pytest.approx(100 * (400 / 40 + 400 / 30 + 400 / 25) / 60, abs=0.005)


def test_overlap_counts_the_images_of_a_round_and_the_sizes_of_both() -> None:
    # Class 1 grows from 2 images to 4, class 0 shrinks from all its 4 to 2.
    two = dataclasses.replace(SELECTION, epochs=np.array([0, 5]), selected=np.array([
        picks(1, 5, 8, 11, 0, 2, 3, 9, 6), picks(1, 5, 0, 4, 7, 10, 3, 9, 6),
    ]))  # fmt: skip
    found = numbers(two, SHOTS)
    assert found["overlap_between_rounds"] == 50.0  # 3 of 6
    assert found["overlap_expected"] == 55.56  # (2 * 4 / 4 + 4 * 2 / 6) / 6


def test_overlap_of_equal_rounds_is_100_and_of_a_single_one_left_out() -> None:
    still = dataclasses.replace(SELECTION, selected=SELECTION.selected[[1, 1, 1]])
    assert numbers(still, SHOTS)["overlap_between_rounds"] == 100.0
    single = numbers(one_round(SELECTION, 2), SHOTS)
    assert single == {
        key: 1 if key == "rounds" else value
        for key, value in numbers(SELECTION, SHOTS).items()
        if not key.startswith("overlap")
    }


def test_without_a_drawn_class_only_the_sizes_are_left() -> None:
    everything = np.ones((3, 13), bool)
    whole = dataclasses.replace(
        SELECTION, selected=everything, control=everything, inclusion_probability=everything.astype(float)
    )
    assert numbers(whole, SHOTS) == {"images": 13, "rounds": 3, "classes_drawn": 0}
    frames = full_tables(whole)
    assert frames["ipdpp_inclusion"].empty
    assert list(frames["ipdpp_inclusion"].columns) == list(
        plot_tables(None, None, NAMES, SHOTS)["ipdpp_inclusion"].columns
    )
    shares = frames["ipdpp_probability"].pivot_table(
        index=["round", "group", "probability"], columns="images", values="share"
    )
    assert (shares["all"] == shares["selected"]).all()


def test_ipdpp_draws_images_that_are_less_probable_than_the_controls() -> None:
    found = numbers(drawn_from([2000, 1000, 20]), Shots(many_above=100, few_below=30))["many"]
    assert isinstance(found, dict)
    # Standard error 0.02 of the mean of 200 images, two classes; p of round 1 is beta(1.5, 0.5), with mean 0.75.
    assert found["probability_selected"] < found["probability_all"] - 0.04
    assert found["information_selected"] > found["information_control"]
    assert found["probability_control"] == pytest.approx(found["probability_all"], abs=0.06)


def test_numbers_stay_finite_where_the_model_is_certain(tmp_path: Path) -> None:
    log_p = np.where(LABEL == 1, -np.inf, 0.0)
    inclusion = np.where(np.arange(13) == 5, 0.0, SELECTION.inclusion_probability)  # an image of class 0
    certain = dataclasses.replace(SELECTION, log_probability=np.array([log_p] * 3), inclusion_probability=inclusion)
    found = numbers(certain, SHOTS)
    write_json(tmp_path / "a.json", found)  # refuses what is not finite
    many, medium = found["many"], found["medium"]
    assert isinstance(many, dict) and isinstance(medium, dict)
    assert many["information_all"] == pytest.approx(708.4, abs=0.1) and many["probability_all"] == 0
    assert medium["information_selected"] == 0 and "inclusion_ratio" not in medium
    for frame in full_tables(certain).values():
        assert np.isfinite(frame.select_dtypes("number")).all().all()


def test_empty_tables_have_the_columns_of_full_ones() -> None:
    full, empty = full_tables(SELECTION), plot_tables(None, None, NAMES, SHOTS)
    assert {name: list(frame.columns) for name, frame in empty.items()} == {
        name: list(frame.columns) for name, frame in full.items()
    }
    assert all(frame.empty for frame in empty.values())
    assert not any(frame.empty for frame in full.values())


def test_no_table_has_missing_values_or_columns_of_dvc(tmp_path: Path) -> None:
    for name, frame in full_tables(SELECTION).items():
        write_csv(tmp_path / "a.csv", frame)
        found = pd.read_csv(tmp_path / "a.csv")
        assert len(found) == len(frame)
        assert not found.isna().any().any(), name
        assert np.isfinite(found.select_dtypes("number")).all().all(), name
        assert not {"rev", "filename", "field"} & set(frame.columns)


AXES = {
    "ipdpp_probability": ("probability", "share"),
    "ipdpp_inclusion": ("probability", "inclusion"),
    "ipdpp_counts": ("rank", "count"),
}


def test_every_table_is_a_plot_of_dvc_and_the_other_way_round() -> None:
    prefix = "plots/ipdpp_"
    content = yaml.safe_load((ROOT / "metrics/dvc.yaml").read_text())
    listed = [plot for plot in content["plots"] if isinstance(plot, dict)]
    plots = {Path(path).stem: settings for plot in listed for path, settings in plot.items() if path.startswith(prefix)}
    assert set(AXES) == set(plot_tables(None, None, NAMES, SHOTS))
    assert {name: (settings["x"], settings["y"]) for name, settings in plots.items()} == AXES
    assert all(settings["template"] == name for name, settings in plots.items())


def template(name: str) -> str:
    text = (ROOT / ".dvc/plots" / f"{name}.json").read_text("utf-8")
    for axis, column in zip("XY", AXES[name], strict=True):
        text = text.replace(f"<DVC_METRIC_{axis}>", column)
    return text


@pytest.mark.parametrize("name", AXES)
def test_template_names_only_columns_that_its_table_has(name: str) -> None:
    text = template(name)
    assert json.loads(text)["data"]["values"] == "<DVC_METRIC_DATA>"
    columns = set(plot_tables(None, None, NAMES, SHOTS)[name].columns)
    computed = set(re.findall(r'"as": "(\w+)"', text))
    assert not computed & columns
    assert set(re.findall(r"datum\['([^']+)'\]", text)) <= columns
    assert set(re.findall(r"datum\.(\w+)", text)) <= computed | {"value"}
    used = set(re.findall(r'"field": "([^"]+)"', text))
    assert used <= columns | computed | {"rev"}
    assert "rev" in used, "revisions lie over each other otherwise"


@pytest.mark.parametrize("name", AXES)
def test_template_knows_the_words_of_its_table(name: str) -> None:
    frame = full_tables(SELECTION)[name]
    domains = [set(json.loads(found)) for found in re.findall(r'"domain": (\["[^\]]*\])', template(name))]
    assert domains
    for words in domains:
        assert words in (set(frame.get("images", [])), {"many", "medium", "few"})


@pytest.mark.parametrize("name", AXES)
def test_grid_of_panels_is_sorted_by_its_own_fields(name: str) -> None:
    """Vega-Lite can put panels under wrong headings where a grid is sorted by a list of values and one has no data."""
    facet = json.loads(template(name)).get("facet", {})
    assert all("sort" not in axis for axis in facet.values())
