"""``models/ipdpp_selection.h5``: what was written comes back, equal content has equal bytes, and damage is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from longtail.artifacts.hdf5 import write_hdf5
from longtail.artifacts.tables import write_csv
from longtail.core.errors import ArtifactError
from longtail.methods.ipdpp.selection_file import SCHEMA, SelectionFile, read_selection, subset_table, write_selection

MADE_BY = "finetune_ipdpp"
ARRAYS = [one.name for one in dataclasses.fields(SelectionFile) if one.type is np.ndarray]

# Classes of 4, 2 and 1 images, drawn to 2, 2 and 1; the images lie in no order.
SELECTION = SelectionFile(
    split_digest="abc",
    train_counts=np.array([4, 2, 1]),
    index=np.array([30, 10, 70, 20, 60, 40, 50]),
    label=np.array([0, 1, 0, 0, 2, 0, 1]),
    epochs=np.array([0, 10]),
    log_probability=np.log([[0.5, 0.9, 1 / 3, 1e-9, 0.2, 1.0, 0.25], [0.75, 1.0, 2 / 3, 0.1, 0.4, 0.125, 0.5]]),
    inclusion_probability=np.array([[0.5, 1, 5 / 9, 0.6, 1, 31 / 90, 1], [0.4, 1, 0.45, 0.55, 1, 0.6, 1]]),
    selected=np.array([[1, 1, 1, 0, 1, 0, 1], [0, 1, 0, 1, 1, 1, 1]], bool),
    control=np.array([[0, 1, 1, 1, 1, 0, 1], [1, 1, 0, 0, 1, 1, 1]], bool),
    notes={"scale": "n", "epochs": 20, "k": "10*n_min"},
    control_notes={"epoch": 20},
)


def equal(a: SelectionFile, b: SelectionFile) -> bool:
    """NaN equals NaN; dtypes count."""
    return (a.split_digest, a.notes, a.control_notes) == (b.split_digest, b.notes, b.control_notes) and all(
        left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
        for left, right in ((getattr(a, name), getattr(b, name)) for name in ARRAYS)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_selection(tmp_path / "ipdpp_selection.h5", SELECTION)
    return tmp_path / "ipdpp_selection.h5"


def refused(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_selection(path, MADE_BY)
    assert str(path) in str(caught.value)
    assert caught.value.maker == MADE_BY
    return str(caught.value)


def stored(path: Path) -> tuple[dict, dict]:
    """Datasets and attributes of a file, without what ``write_hdf5`` adds."""
    with h5py.File(path, "r") as file:
        datasets = {name: item[()] for name, item in file.items()}
        attributes = {name: getattr(value, "item", lambda v=value: v)() for name, value in file.attrs.items()}
    return datasets, {name: value for name, value in attributes.items() if name != "schema"}


def test_what_was_written_comes_back(path: Path) -> None:
    assert len(ARRAYS) == 8
    found = read_selection(path, MADE_BY)
    assert equal(found, SELECTION)
    assert found.selected.dtype == found.control.dtype == np.bool_


def test_draws_are_plain_integers_to_other_programs(path: Path) -> None:
    datasets, _ = stored(path)
    assert datasets["selected"].dtype == datasets["control"].dtype == np.uint8
    assert set(np.unique(datasets["selected"])) == {0, 1}


def test_probability_of_zero_and_file_of_one_round_without_notes_come_back(tmp_path: Path) -> None:
    one = {name: getattr(SELECTION, name)[:1] for name in ARRAYS if getattr(SELECTION, name).ndim == 2}
    one["log_probability"] = np.where(SELECTION.label == 1, -np.inf, one["log_probability"])
    plain = dataclasses.replace(SELECTION, epochs=np.array([0]), notes={}, split_digest="", **one)
    write_selection(tmp_path / "a.h5", plain)
    assert equal(read_selection(tmp_path / "a.h5", MADE_BY), plain)


def test_equal_content_has_equal_bytes_whatever_its_order(path: Path, tmp_path: Path) -> None:
    again = dataclasses.replace(SELECTION, notes=dict(reversed(SELECTION.notes.items())))
    write_selection(tmp_path / "elsewhere" / "again.h5", again)
    assert (tmp_path / "elsewhere" / "again.h5").read_bytes() == path.read_bytes()


def test_bytes_depend_on_every_part(tmp_path: Path) -> None:
    # Two images of class 1 stand at positions 1 and 6, one of class 2 at position 4.
    relabeled = SELECTION.label[[0, 4, 2, 3, 1, 5, 6]]
    changes: list[dict[str, Any]] = [
        {},
        {"split_digest": "abd"},
        {"train_counts": np.array([4, 2, 1, 0])},
        {"index": SELECTION.index + 1},
        {"label": relabeled},
        {"epochs": np.array([0, 11])},
        {"log_probability": SELECTION.log_probability - 0.5},
        {"inclusion_probability": SELECTION.inclusion_probability / 2},
        {"selected": SELECTION.control},
        {"control": SELECTION.selected},
        {"notes": {"scale": "n2"}},
        {"control_notes": {"epoch": 19}},
    ]
    files = set()
    for change in changes:
        write_selection(tmp_path / "a.h5", dataclasses.replace(SELECTION, **change))
        files.add((tmp_path / "a.h5").read_bytes())
    assert len(files) == len(changes)


def test_missing_file_names_its_stage(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.h5").endswith("is missing")


@pytest.mark.parametrize("missing", [*ARRAYS, "split_digest"])
def test_missing_dataset_or_attribute_is_named(path: Path, missing: str) -> None:
    datasets, attributes = stored(path)
    kept = {name: array for name, array in datasets.items() if name != missing}
    write_hdf5(path, kept, {name: v for name, v in attributes.items() if name != missing}, schema=SCHEMA)
    assert refused(path).endswith(f"lacks {missing}")


def test_all_that_is_missing_is_named(path: Path) -> None:
    datasets, attributes = stored(path)
    del datasets["control"], datasets["epochs"]
    write_hdf5(path, datasets, attributes, schema=SCHEMA)
    assert refused(path).endswith("lacks control, epochs")


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("selected", SELECTION.selected[:, :6], r"must have selected of shape (2, 7), got (2, 6)"),
        ("control", SELECTION.control[:1], r"must have control of shape (2, 7), got (1, 7)"),
        ("log_probability", np.zeros((3, 7)), r"must have log_probability of shape (2, 7), got (3, 7)"),
        ("inclusion_probability", np.ones(7), r"must have inclusion_probability of shape (2, 7), got (7,)"),
        ("label", SELECTION.label[:6], r"must have label of shape (7,), got (6,)"),
        ("index", SELECTION.index[:, None], r"must have index with one dimension, got shape (7, 1)"),
        ("epochs", np.zeros((2, 2), np.int64), r"must have epochs with one dimension, got shape (2, 2)"),
        ("epochs", np.zeros(0, np.int64), "has no rounds"),
        ("train_counts", np.array([5, 2, 1]), "labels that do not match train_counts"),
        ("train_counts", np.array([4, 3]), "labels that do not match train_counts"),
        ("label", SELECTION.label - 1, "labels that do not match train_counts"),
    ],
)
def test_arrays_that_do_not_agree_are_refused(path: Path, name: str, changed: np.ndarray, message: str) -> None:
    datasets, attributes = stored(path)
    stored_as = datasets[name].dtype
    write_hdf5(path, datasets | {name: np.asarray(changed).astype(stored_as)}, attributes, schema=SCHEMA)
    assert message in refused(path)


def test_writing_arrays_that_do_not_agree_is_a_programmers_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="must have selected of shape"):
        write_selection(tmp_path / "a.h5", dataclasses.replace(SELECTION, selected=SELECTION.selected[:, :3]))
    assert not (tmp_path / "a.h5").exists()


def test_truncated_file_is_refused_at_every_length(path: Path) -> None:
    content = path.read_bytes()
    for size in [0, 1, 100, *range(512, len(content), 509), *range(len(content) - 90, len(content))]:
        path.write_bytes(content[:size])
        refused(path)


def test_flipped_bit_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for position in range(0, 8 * len(content), 997):
        byte, bit = divmod(position, 8)
        changed = bytearray(content)
        changed[byte] ^= 1 << bit
        path.write_bytes(bytes(changed))
        refused(path)


def test_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "a.h5", {}, {}, schema="longtail/routing/1")
    assert "longtail/routing/1" in refused(tmp_path / "a.h5")


def test_subset_is_the_selected_images_by_round_class_and_index() -> None:
    table = subset_table(SELECTION)
    assert list(table.columns) == ["round", "class", "index", "probability", "inclusion_probability"]
    assert table.to_records(index=False).tolist() == [
        (0, 0, 30, 0.5, 0.5),
        (0, 0, 70, 0.333333333, 0.555555556),
        (0, 1, 10, 0.9, 1.0),
        (0, 1, 50, 0.25, 1.0),
        (0, 2, 60, 0.2, 1.0),
        (1, 0, 20, 0.1, 0.55),
        (1, 0, 40, 0.125, 0.6),
        (1, 1, 10, 1.0, 1.0),
        (1, 1, 50, 0.5, 1.0),
        (1, 2, 60, 0.4, 1.0),
    ]


def test_small_probabilities_keep_their_digits_in_the_csv(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    log_probability = stream.uniform(-300, 0, (2, 7))
    selection = dataclasses.replace(SELECTION, log_probability=log_probability, selected=np.ones((2, 7), bool))
    table = subset_table(selection)
    write_csv(tmp_path / "a.csv", table)
    found = pd.read_csv(tmp_path / "a.csv", dtype=str).astype(table.dtypes)
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    # Half a unit in the ninth digit, relative to the smallest leading digit.
    order = np.argsort(SELECTION.label * 100 + SELECTION.index)
    expected = np.exp(log_probability[:, order]).ravel()
    np.testing.assert_allclose(found["probability"], expected, rtol=5e-9, atol=0)
    assert max(len(line) for line in (tmp_path / "a.csv").read_text().splitlines()[1:]) < 40
