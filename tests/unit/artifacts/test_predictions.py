"""Prediction tables: ranking, probabilities, refusal of bad scores, round trip."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import longtail.artifacts.predictions as module
from longtail.artifacts.predictions import Predictions, build_predictions, read_predictions, write_predictions
from longtail.core.errors import LongtailError
from tests.refusals import refused


def build(scores: Any, label: Any = None, **options: Any) -> Predictions:
    scores = np.asarray(scores)
    label = np.zeros(len(scores), dtype=np.int64) if label is None else np.asarray(label)
    counts = np.full(scores.shape[-1], 9)
    keywords = {"likelihood": True, "selected_on_test": False, "split_digest": "s", "train_counts": counts} | options
    return build_predictions("crt", scores, label, np.arange(len(scores)) + 100, **keywords)


def test_ties_go_to_the_lowest_class_at_every_rank() -> None:
    table = build([[1.0, 3.0, 3.0, 0.0, 1.0, 1.0], [2.0] * 6])
    assert table.top_class.tolist() == [[1, 2, 0, 4, 5], [0, 1, 2, 3, 4]]


def test_classes_are_ranked_by_score_where_probabilities_round_to_the_same_value() -> None:
    scores = np.array([[-1e4, -1e4 + 1e-3]], dtype=np.float32)
    table = build(scores)
    assert scores[0, 0] < scores[0, 1]
    assert table.predicted.tolist() == [1]
    wide = build(np.array([[0.0, 1e-12]]))
    assert wide.predicted.tolist() == [1]
    assert wide.top_probability[0, 0] == wide.top_probability[0, 1]


def test_probabilities_and_label_log_probability_are_those_of_softmax() -> None:
    table = build([np.log([0.5, 0.3, 0.2])], label=[2])
    np.testing.assert_allclose(table.top_probability, [[0.5, 0.3, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(table.label_log_probability, [np.log(0.2)], rtol=1e-6)


def test_huge_scores_do_not_overflow() -> None:
    table = build(np.array([[1e4, -1e4, 0.0]]), label=[1])
    assert table.top_probability[0, 0] == 1
    assert table.label_log_probability[0] == pytest.approx(-2e4)


def test_list_has_at_most_five_and_at_most_c_classes() -> None:
    assert build(np.zeros((2, 3))).top_class.shape == (2, 3)
    assert build(np.zeros((2, 9))).top_class.shape == (2, 5)


def test_block_size_does_not_change_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).normal(size=(50, 7)).round(1)
    whole = build(scores)
    monkeypatch.setattr(module, "_BLOCK_VALUES", 21)
    parts = build(scores)
    for field in dataclasses.fields(Predictions):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(parts, field.name))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_with_method_and_first_row(bad: float) -> None:
    scores = np.zeros((5, 3))
    scores[2, 1] = scores[4, 0] = bad
    with pytest.raises(LongtailError, match=r"crt.*row 2"):
        build(scores)


@pytest.mark.parametrize("label", [[0, 3], [-1, 0]])
def test_labels_outside_the_classes_are_refused(label: list[int]) -> None:
    with pytest.raises(LongtailError, match=r"labels must be 0 to 2, got"):
        build(np.zeros((2, 3)), label=label)


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(LongtailError, match="rows of scores, got"):
        build(np.zeros((2, 3)), label=[0, 1, 2])


def test_round_trip_keeps_everything_and_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    scores = np.random.default_rng(1).normal(size=(30, 6)).astype(np.float32)
    table = build(scores, label=np.arange(30) % 6, likelihood=False, selected_on_test=True, split_digest="abc")
    write_predictions(tmp_path / "a.h5", table)
    write_predictions(tmp_path / "b.h5", table)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    back = read_predictions(tmp_path / "a.h5", made_by="rebalance@crt")
    for field in dataclasses.fields(Predictions):
        wrote, read = getattr(table, field.name), getattr(back, field.name)
        np.testing.assert_array_equal(wrote, read)
        assert type(wrote) is type(read)
        if isinstance(wrote, np.ndarray):
            assert wrote.dtype == read.dtype


def test_missing_table_is_an_error_that_names_file_and_stage(tmp_path: Path) -> None:
    with refused(r"crt\.h5 is missing$", "rebalance@crt", missing=True):
        read_predictions(tmp_path / "crt.h5", made_by="rebalance@crt")


def test_bit_flip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "crt.h5"
    write_predictions(path, build(np.random.default_rng(2).normal(size=(40, 6))))
    content = bytearray(path.read_bytes())
    position = bytes(content).index(np.arange(100, 140, dtype=np.int64).tobytes())
    content[position + 8] ^= 1
    path.write_bytes(bytes(content))
    with refused(r"crt\.h5", "rebalance@crt"):
        read_predictions(path, made_by="rebalance@crt")
