"""Studies: the runs that they plan, and what they write of their results. No run is executed here."""

import argparse

import numpy as np
import pandas as pd
import pytest

from longtail.core.errors import ConfigError
from longtail.core.yaml import read_yaml
from longtail.data.manifest import DatasetInfo, Manifest
from stages.recipe import assign
from stages.studies import architectures, published, toy, virtual_similar
from stages.studies.page import Line, Page, Panel, line_figure, matrix_figure
from stages.studies.runs import Experiments
from stages.studies.source import Source
from tests.conftest import merged
from tests.imports import ROOT

NAMES = ("cat", "dog", "eel", "fox")
PARAMS = read_yaml(ROOT / "params.yaml")


def source(tmp_path, per_class: int = 5000, **changes) -> Source:
    """Four classes, the largest first, with 10 test images each."""
    train = [per_class + 100, per_class + 50, per_class, per_class]
    labels = np.repeat(np.arange(4).repeat(2), np.column_stack([train, [10] * 4]).ravel())
    parts = np.concatenate([np.repeat(["train", "test"], [size, 10]) for size in train])
    none = np.full(len(labels), "")
    info = DatasetInfo("cifar10", "memory", 32, 3, 4)
    return Source(tmp_path, Manifest(info, NAMES, labels, parts, none, none), PARAMS | changes)


def options(study: str, *words: str) -> argparse.Namespace:
    module = {"toy_case1": toy, "toy_case2": toy, "virtual_similar": virtual_similar}.get(study, architectures)
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    module.add_arguments(parser)
    found = parser.parse_args(words)
    found.study, found.pretrain_settings = study, {}
    return found


def checked(study: str, runs) -> list:
    """Every run has valid parameters and a name of its own that git takes."""
    experiments = Experiments(study, PARAMS)
    for run in runs:
        experiments.content(run)
        assert set(run.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert len({run.name for run in runs}) == len(runs)
    return runs


def test_toy_cases_have_the_published_counts(tmp_path):
    def counts(study: str, *words: str) -> list:
        return [
            run.settings["class_counts"] for run in checked(study, toy.plan(options(study, *words), source(tmp_path)))
        ]

    case1, case2 = counts("toy_case1"), counts("toy_case2", "--tail", "dog")
    assert [(c[0], c[3]) for c in case1] == [
        (n, 50) for n in (100, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500, 5000)
    ]
    assert [c[1] for c in case2] == [5000, 4100, 3600, 3100, 2600, 2100, 1600, 1100, 600, 100]
    assert all(c[0] == c[2] == c[3] == 5000 for c in case2)
    full = counts("toy_case1", "--grid", "full")
    assert len(full) == 50 and full[0][0] == 100 and full[49][0] == 5000


def test_smaller_datasets_keep_the_proportions_and_seeds_draw_other_images(tmp_path):
    runs = checked("toy_case2", toy.plan(options("toy_case2", "--seeds", "0", "1"), source(tmp_path, 500)))
    assert [run.facts["n_tail"] for run in runs[:10]] == [500, 410, 360, 310, 260, 210, 160, 110, 60, 10]
    assert {(run.settings["seed"], run.settings["split_seed"]) for run in runs} == {(0, 0), (1, 1)}


def test_toy_page_has_a_row_for_each_run_and_the_published_curves(tmp_path):
    chosen, data = options("toy_case1", "--steps", "100", "5000", "--seeds", "0", "1"), source(tmp_path)
    runs = toy.plan(chosen, data)
    results = {run.name: {"all": 50.0, "classes": [60.0, 50.0, 50.0, 40.0]} for run in runs}
    found = toy.table(runs, results, data)
    assert found["accuracy fox"].tolist() == [40.0] * 4 and found["top1"].tolist() == [50.0] * 4
    page = Page("toy_case1", "Title <1>", "longtail study toy_case1")
    toy.write(page, found, chosen, data)
    text = "".join(page._parts)
    assert text.count("<svg") == 1 and "published, CIFAR-10" in text and text.count("<tr") == 5


def test_similar_grids_are_those_of_both_tables_without_repeats(tmp_path):
    runs = checked("virtual_similar", virtual_similar.plan(options("virtual_similar"), source(tmp_path)))
    points = [(run.facts["share"], run.facts["head_weight"]) for run in runs if run.facts["pretrain"] == "none"]
    assert points == [(0.0, 1.0), (0.1, 0.2), (0.2, 0.2), (0.3, 0.2), (0.4, 0.2), (0.5, 0.2),
                      (0.2, 0.8), (0.2, 0.6), (0.2, 0.4), (0.2, 0.0)]  # fmt: skip
    assert len(runs) == 2 * len(points)
    assert {run.settings["pretrain.method"] for run in runs} == {"none", "rotation"}


def test_similar_page_says_how_both_classes_change(tmp_path):
    words = ("--shares", "0", "0.5", "--head-weights", "0", "--pretrain", "none", "--tail", "dog")
    chosen, data = options("virtual_similar", *words), source(tmp_path)
    runs = virtual_similar.plan(chosen, data)
    assert [run.facts["share"] for run in runs] == [0.0, 0.5, 0.2]
    by_run = [([90.0, 40.0, 0, 0], 0.5), ([89.0, 25.0, 0, 0], 0.8), ([91.0, 0.0, 0, 0], 0.7)]
    results = {
        run.name: {"all": 50.0, "classes": classes, "head_tail_cosine": cosine}
        for run, (classes, cosine) in zip(runs, by_run, strict=True)
    }
    found = virtual_similar.table(runs, results, data)
    by_share, by_weight = (virtual_similar.select(found, x) for x in ("share", "head_weight"))
    assert virtual_similar.trend("none", "share", by_share, "share") == (
        "pretrain none, share 0 to 0.5: the tail class changes by -15.0 points, the head class by -1.0."
    )
    assert virtual_similar.trend("none", "head weight", by_weight, "head_weight") == (
        "pretrain none, head weight 1 to 0: the tail class changes by -40.0 points, the head class by +1.0."
    )


def test_architectures_are_the_published_cells_or_a_small_grid(tmp_path):
    data = source(tmp_path, dataset="cifar10")
    runs = architectures.plan(options("architectures"), data)
    assert len(runs) == 4 * 4 * 4 * 2
    some = checked(
        "architectures", architectures.plan(options("architectures", "--only", "resnet32-ldam*-imb100-*"), data)
    )
    assert [run.name for run in some] == ["resnet32-ldam-imb100-seed0", "resnet32-ldam-ssp-imb100-seed0"]
    assert some[1].settings["pretrain.epochs"] == 200 and some[1].settings["pretrain.optimizer"] == "sgd"
    small = checked("architectures", architectures.plan(options("architectures"), source(tmp_path, dataset="digits")))
    assert len(small) == 16


def test_published_cells_are_where_they_stand_in_the_table():
    assert published.architecture("cifar10", "ce", 100, 32) == (71.3, False)
    assert published.architecture("cifar10", "ldam", 10, 110) == (57.0, True)
    assert published.architecture("cifar100", "rw+ssp", 50, 56) == (42.3, False)
    assert published.architecture("cifar10", "ce", 30, 32) is published.architecture("digits", "ce", 100, 32) is None


def test_architectures_page_compares_with_and_without_pretraining(tmp_path):
    chosen, data = options("architectures", "--only", "resnet32-ce*-imb100-*"), source(tmp_path, dataset="cifar10")
    runs = architectures.plan(chosen, data)
    results = {run.name: {"all": 70.0 + 3 * run.facts["ssp"], "macro": 70.0} for run in runs}
    found = architectures.table(runs, results, data)
    page = Page("architectures", "Title", "command")
    architectures.write(page, found, chosen, data)
    assert found["published"].tolist() == [71.3, 73.8]
    assert "SSP changes top-1 by +3.0 points on average over 1 pairs of runs" in "".join(page._parts)


def test_runs_without_pretraining_forget_its_settings_and_others_keep_them(tmp_path):
    """params.yaml configures pretraining, which would be refused without it."""
    params = merged(PARAMS, {"pretrain": {"method": "rotation", "epochs": 3}})
    chosen = options("virtual_similar", "--shares", "0.5", "--head-weights")
    chosen.pretrain_settings = {"pretrain.batch_size": 32}
    runs = virtual_similar.plan(chosen, source(tmp_path, dataset="digits"))
    contents = [Experiments("virtual_similar", params).content(run)["pretrain"] for run in runs]
    assert [(one["method"], one["epochs"], one["batch_size"]) for one in contents] == [
        ("none", 200, 128),
        ("rotation", 3, 32),
    ]


def test_class_counts_replace_a_mapping_of_params_yaml():
    content = {"class_counts": {"cat": 5}, "train": {"lr": 1}}
    assign(content, "class_counts", [1, 2])
    assign(content, "train.lr", 2)
    assert content == {"class_counts": [1, 2], "train": {"lr": 2}}


@pytest.mark.parametrize(
    "study, words, message",
    [
        ("toy_case1", ["--steps", "100", "150"], "--steps must be hundreds from 100 to 5000, got 150"),
        ("virtual_similar", ["--shares", "--head-weights"], "--shares or --head-weights must have a value, got none"),
        ("virtual_similar", ["--shares", "2"], "--shares must be at least 0 and at most 1, got 2"),
    ],
)
def test_values_off_the_grid_are_refused(study, words, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        (toy if study == "toy_case1" else virtual_similar).plan(options(study, *words), source(tmp_path))


def test_class_names_are_no_mathematics(tmp_path):
    line = Line(r"tail $\foo$", np.array([1.0]), np.array([2.0]))
    assert "<svg" in line_figure([Panel("$^$", [line])], "x", "y")
    assert "<svg" in matrix_figure([("m", np.eye(2))], ["$^$", "b"], "x", "y")


def test_page_escapes_what_it_is_given_and_is_the_same_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def written() -> bytes:
        page = Page("name", "<b>", "longtail study name --tail '<x>'")
        page.add_text("1 < 2")
        page.add_table(pd.DataFrame({"class": ["<i>"], "value": [1.23456]}))
        return page.write({"name": pd.DataFrame({"x": [1]})})[-1].read_bytes()

    first = written()
    assert b"<b>" not in first and b"<i>" not in first and b"1 &lt; 2" in first and b"1.2<" in first
    assert first == written() and b"http" not in first


def test_lines_average_over_seeds():
    line = Line.over_seeds("ours", [2, 1, 1], [5.0, 1.0, 3.0])
    assert line.x.tolist() == [1, 2] and line.y.tolist() == [2.0, 5.0]
    assert line.spread == pytest.approx([np.sqrt(2), 0.0])
