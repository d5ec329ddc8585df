"""The table of all methods as text: best values, empty groups, and what is marked."""

import json

import pytest

from longtail.evaluation.report import format_table, read_size, read_uncalibrated

SUMMARY = {
    "crt": {"all": 62.0, "many": 70.0, "few": 40.0, "macro": 62.0, "ece": 5.0},
    "joint": {"all": 60.0, "many": 80.0, "few": 10.0, "macro": 60.0, "ece": 12.5},
    "tau": {"all": 99.0, "many": 99.0, "few": 99.0, "macro": 99.0, "ece": 0.1, "selected_on_test": 1},
}


def test_table_marks_best_values_empty_groups_and_rows_selected_on_test():
    lines = format_table(SUMMARY, uncalibrated={"tau"}).splitlines()
    assert lines[0].split() == ["METHOD", "all", "many", "medium", "few", "macro", "ECE"]
    assert lines[2].split() == ["crt", "62.00+", "70.00", "-", "40.00+", "62.00+", "5.00+"]
    assert lines[3].split() == ["joint", "60.00", "80.00+", "-", "10.00", "60.00", "12.50"]
    assert lines[4].split() == ["tau", "*", "99.00", "99.00", "-", "99.00", "99.00", "~0.10"]
    assert "* selected on the test split" in lines[-1]
    assert "* selected" not in format_table({"crt": SUMMARY["crt"]})


def test_rows_keep_the_order_given():
    names = [line.split()[0] for line in format_table(dict(reversed(SUMMARY.items()))).splitlines()[2:5]]
    assert names == ["tau", "joint", "crt"]


def test_uncalibrated_method_does_not_compete_for_the_best_ece():
    lines = format_table(SUMMARY, uncalibrated={"crt"}).splitlines()
    assert lines[2].split()[-1] == "~5.00"
    assert lines[3].split()[-1] == "12.50+"
    assert "~ of scores that are not a likelihood" in format_table(SUMMARY, uncalibrated={"crt"})
    assert "~" not in format_table(SUMMARY)


def test_size_of_the_backbone_is_printed_below_the_table():
    without = format_table(SUMMARY).splitlines()
    size = {"backbone": "resnet32", "parameters": 7_440_000, "macs": 69_000_000}
    line = "resnet32 with its head: 7,440,000 parameters, 69,000,000 multiply-accumulates per image"
    found = format_table(SUMMARY, size=size).splitlines()
    assert line in found and [other for other in found if other != line] == without


def test_origin_of_pretrained_weights_is_printed_below_the_table():
    size = {"backbone": "resnet50", "parameters": 5, "macs": 7}
    origin = {"weights": "timm/resnet50.a1_in1k", "trained_on": "ImageNet-1k (a1_in1k)", "license": "apache-2.0"}
    line = "pretrained weights: timm/resnet50.a1_in1k; trained on ImageNet-1k (a1_in1k); license apache-2.0"
    assert line in format_table(SUMMARY, size=size | origin).splitlines()
    assert "pretrained weights" not in format_table(SUMMARY, size=size)


def test_uncalibrated_methods_and_size_are_read_from_the_files_of_evaluate(tmp_path):
    details, selection = tmp_path / "details.json", tmp_path / "selection.json"
    assert read_uncalibrated(details) == set()
    assert read_size(selection) == {}
    details.write_text(json.dumps({"crt": {"f1": 1.0}, "ncm": {"f1": 2.0, "uncalibrated": 1}}))
    selection.write_text(json.dumps({"crt": {"epoch": 10}}))
    assert read_uncalibrated(details) == {"ncm"}
    assert read_size(selection) == {}
    selection.write_text(json.dumps({"backbone": {"backbone": "resnet8", "parameters": 5, "macs": 7}}))
    assert read_size(selection) == {"backbone": "resnet8", "parameters": 5, "macs": 7}


@pytest.mark.parametrize("key", ["all", "ece"])
def test_only_row_is_best_unless_it_was_selected_on_test(key):
    row = {"all": 50.0, "ece": 3.0}
    assert "+" in format_table({"crt": row}).splitlines()[2]
    assert "+" not in format_table({"crt": row | {"selected_on_test": 1}}).splitlines()[2]
