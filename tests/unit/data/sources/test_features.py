"""The user's own features: their forms, and what is refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from longtail.artifacts.features import Features, write_features
from longtail.artifacts.head_files import HeadFile, write_head
from longtail.core.errors import DataError
from longtail.core.head import CenteredCosineHead, ClassMeans, LinearHead, Neighbors
from longtail.data.sources import SOURCES
from longtail.data.sources.features import load

LABELS = {"train": np.array([0, 0, 0, 2, 1, 1]), "test": np.array([2, 1, 0]), "val": np.array([1, 0])}
ROWS = {name: np.random.default_rng(len(labels)).normal(size=(len(labels), 4)) for name, labels in LABELS.items()}
FORMS = ("h5", "npz", "npy")


def write_h5(path: Path, **arrays: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def write(folder: Path, part: str, form: str = "h5", rows: Any = None, labels: Any = None, **further: Any) -> None:
    """One part. ``further`` are arrays beside the features (h5 and npz)."""
    rows = ROWS[part] if rows is None else rows
    labels = LABELS[part] if labels is None else labels
    if form == "h5":
        write_h5(folder / f"features_{part}.h5", features=rows, labels=labels, **further)
    elif form == "npz":
        np.savez(folder / f"features_{part}.npz", features=rows, labels=labels, **further)
    else:
        np.save(folder / f"features_{part}.npy", rows)
        np.save(folder / f"labels_{part}.npy", labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        write(tmp_path, part)
    return tmp_path


def refused(folder: Path, *words: str, relabel: bool = False) -> None:
    """The error is one sentence with all ``words``."""
    with pytest.raises(DataError) as caught:
        load(folder, relabel)
    message = str(caught.value)
    assert "\n" not in message and "dvc" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_all_rows_of_all_parts(tmp_path, form):
    for part in LABELS:
        write(tmp_path, part, form)
    source = load(tmp_path, relabel=False)
    parts = ("train", "val", "test")
    assert source.parts.tolist() == [part for part in parts for _ in LABELS[part]]
    assert source.labels.tolist() == [label for part in parts for label in LABELS[part]]
    assert source.features.dtype == np.float32 and source.labels.dtype == np.int64
    np.testing.assert_array_equal(source.features, np.concatenate([ROWS[p] for p in parts]).astype(np.float32))
    assert source.class_names == ("0", "1", "2")
    assert (source.head, source.images, source.root) == (None, None, None)
    assert sorted(source.digests) == sorted(path.name for path in tmp_path.iterdir())


def test_parts_may_differ_in_form_and_names(folder):
    (folder / "features_test.h5").unlink()
    np.savez(folder / "features_test.npz", X=ROWS["test"], y=LABELS["test"])
    write_h5(folder / "features_val.h5", features=ROWS["val"], label=LABELS["val"][:, None].astype(np.uint8))
    assert load(folder, relabel=False).labels.tolist() == [0, 0, 0, 2, 1, 1, 1, 0, 2, 1, 0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_every_float_becomes_float32(tmp_path, form, dtype):
    for part in ("train", "test"):
        write(tmp_path, part, form, rows=np.arange(4 * len(LABELS[part])).reshape(-1, 4).astype(dtype))
    source = load(tmp_path, relabel=False)
    assert source.features.dtype == np.float32 and source.features[1].tolist() == [4, 5, 6, 7]


def test_feature_and_head_files_of_this_library_are_taken(tmp_path):
    for part, labels in LABELS.items():
        rows = ROWS[part].astype(np.float32)
        content = Features(rows, labels, np.arange(len(labels)), 3, "digits", "s", "b", "{}")
        write_features(tmp_path / f"features_{part}.h5", content)
    cosine = LinearHead(np.eye(3, 4, dtype=np.float32), None, "cosine", 16.0)
    write_head(tmp_path / "head.h5", HeadFile("stage1", cosine, "s", "b"))
    source = load(tmp_path, relabel=False)
    assert len(source.labels) == 11
    assert source.head is not None and (source.head.kind, source.head.scale) == ("cosine", 16.0)
    content = (tmp_path / "features_val.h5").read_bytes()
    (tmp_path / "features_val.h5").write_bytes(content[:700] + b"xx" + content[702:])
    refused(tmp_path, "features_val.h5", "damaged")


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (ClassMeans(np.ones((3, 4)), np.ones(4)), "class means"),
        (CenteredCosineHead(np.ones((3, 4)), np.ones(4), 16.0), "a centered cosine head"),
        (Neighbors(np.ones((3, 4)), np.arange(3), np.zeros(4), np.ones(4), 1, 0.1), "the rows of a nearest-neighbor"),
    ],
)
def test_head_that_is_not_linear_is_refused_by_what_it_is(folder, head, what):
    write_head(folder / "head.h5", HeadFile("any", head, "s", "b"))
    refused(folder, "head.h5", f"must hold a linear head, got {what}")


@pytest.mark.parametrize("form", ["h5", "npz"])
def test_head_is_taken_in_float32(folder, form):
    arrays = {"weight": np.arange(12.0).reshape(3, 4), "bias": np.arange(3.0)}
    write_h5(folder / "head.h5", **arrays) if form == "h5" else np.savez(folder / "head.npz", **arrays)
    head = load(folder, relabel=False).head
    assert head is not None and head.bias is not None and head.weight.dtype == head.bias.dtype == np.float32
    assert head.weight.tolist() == arrays["weight"].tolist() and head.bias.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"weight": np.ones((2, 4))}, ["(3, 4)", "(2, 4)"]),
        ({"weight": np.ones((3, 5))}, ["(3, 4)", "(3, 5)"]),
        ({"weight": np.ones((3, 4)), "bias": np.ones(2)}, ["(3, 4) and (2,)", "(C,)"]),
        ({"weight": np.ones((3, 4), int)}, ["float32", "int64"]),
        ({"weight": np.full((3, 4), np.nan)}, ["finite"]),
        ({"weight": np.full((3, 4), 1e60)}, ["finite within float32"]),
        ({"bias": np.ones(3)}, ["weight", "only bias"]),
    ],
)
def test_head_that_does_not_fit_is_refused(folder, arrays, words):
    write_h5(folder / "head.h5", **arrays)
    refused(folder, "head.h5", *words)


@pytest.mark.parametrize("where", ["text", "h5", "npz"])
def test_class_names_come_from_either_place(tmp_path, where):
    names = ["ant", "Bär", "cat tree"]
    if where == "text":
        (tmp_path / "classes.txt").write_text("\ufeffant\r\nBär\r\ncat tree\r\n", encoding="utf-8")
    write(tmp_path, "test", "npz")
    stored = np.array(names) if where == "npz" else [name.encode() for name in names]
    write(tmp_path, "train", "npz" if where == "npz" else "h5", **({} if where == "text" else {"class_names": stored}))
    assert load(tmp_path, relabel=False).class_names == tuple(names)
    if where != "text":
        (tmp_path / "classes.txt").write_text("a\nb\nc\n")
        refused(tmp_path, "one form of the class names", "classes.txt", "class_names")


@pytest.mark.parametrize(
    ("text", "given"), [("a\nb\n", "got 2"), ("a\n\nc\n", "1 of them empty"), ("a\nb\nc\nd", "got 4")]
)
def test_class_names_that_do_not_match_the_labels_are_refused(folder, text, given):
    (folder / "classes.txt").write_text(text)
    refused(folder, "classes.txt", "3 class names", given)


def test_gaps_are_refused_or_closed(tmp_path):
    write(tmp_path, "train", labels=np.array([0, 0, 0, 5, 2, 2]))
    write(tmp_path, "test", labels=np.array([5, 2, 0]))
    refused(tmp_path, "features_train.h5", "label 5", "class 1", "relabel: true")
    (tmp_path / "classes.txt").write_text("\n".join("abcdef"))
    source = load(tmp_path, relabel=True)
    assert source.labels.tolist() == [0, 0, 0, 2, 1, 1, 2, 1, 0]
    assert source.class_names == ("a", "c", "f")
    write(tmp_path, "test", labels=np.array([5, 1, 0]))
    refused(tmp_path, "features_test.h5", "label 1 (row 1)", "features_train.h5", relabel=True)


@pytest.mark.parametrize("form", FORMS)
def test_missing_part_says_what_is_needed(tmp_path, form):
    write(tmp_path, "train", form)
    refused(
        tmp_path, "features_test.h5", "features_test.npz", "features_test.npy with labels_test.npy", "dataset: feat"
    )
    refused(tmp_path / "none", "data_root", str(tmp_path / "none"))


def test_half_a_pair_is_refused(tmp_path):
    for part in ("train", "test"):
        write(tmp_path, part, "npy")
    (tmp_path / "labels_test.npy").unlink()
    refused(tmp_path, "features_test.npy with labels_test.npy", f"{tmp_path / 'labels_test.npy'} is missing")
    write(tmp_path, "test", "npy")
    (tmp_path / "features_train.npy").unlink()
    refused(tmp_path, f"{tmp_path / 'features_train.npy'} is missing")


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize(("first", "second"), [("h5", "npz"), ("h5", "npy"), ("npz", "npy")])
def test_two_forms_of_a_part_are_refused_by_both_names(folder, part, first, second):
    write(folder, part, "h5")
    (folder / f"features_{part}.h5").unlink()
    write(folder, part, first)
    write(folder, part, second)
    refused(folder, f"one form of the {part} features", f"features_{part}.{first}", f"features_{part}.{second}")


def test_two_forms_of_a_head_are_refused(folder):
    write_h5(folder / "head.h5", weight=np.ones((3, 4)))
    np.savez(folder / "head.npz", weight=np.ones((3, 4)))
    refused(folder, "head.h5 and head.npz")


NAN_ROW = ROWS["train"] * [[1], [1], [np.nan], [1], [np.inf], [1]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("rows", "labels", "words"),
    [
        (ROWS["train"][0], None, ["(N, D)", "(4,)"]),
        (ROWS["train"][None], None, ["(N, D)", "(1, 6, 4)"]),
        (ROWS["train"][:0], LABELS["train"][:0], ["(N, D)", "(0, 4)"]),
        (ROWS["train"], LABELS["train"][:3], ["(6,)", "(3,)"]),
        (ROWS["train"].astype(int), None, ["float16, float32 or float64", "int64"]),
        (ROWS["train"], LABELS["train"] + 0.5, ["labels that are integers", "float64"]),
        (ROWS["train"], LABELS["train"] - 1, ["from 0 to C-1", "-1 in row 0"]),
        (NAN_ROW, None, ["finite", "row 2"]),
        (ROWS["train"] * 1e60, None, ["finite features within float32", "row 0"]),
    ],
)
def test_unusable_arrays_are_refused_with_their_file(tmp_path, form, rows, labels, words):
    write(tmp_path, "test")
    write(tmp_path, "train", form, rows=rows, labels=labels)
    refused(tmp_path, "_train.", *words)


def test_not_finite_row_far_into_a_file_is_found(tmp_path):
    rows = np.zeros((10_000, 2), np.float32)
    rows[9_000, 1] = np.inf
    write(tmp_path, "test", rows=np.zeros((2, 2)), labels=np.arange(2))
    write(tmp_path, "train", rows=rows, labels=np.arange(10_000) % 2)
    refused(tmp_path, "features_train.h5", "row 9000")


def test_parts_of_different_width_are_refused(folder):
    write(folder, "test", rows=np.ones((3, 5)))
    refused(folder, "features_test.h5", "4 features like features_train.h5", "got 5")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"features": ROWS["test"]}, ["labels", "only features"]),
        ({"feats": ROWS["test"], "labels": LABELS["test"]}, ["features or X", "only feats, labels"]),
        ({"features": ROWS["test"], "labels": LABELS["test"], "y": LABELS["test"]}, ["labels and y", "the same"]),
    ],
)
@pytest.mark.parametrize("form", ["h5", "npz"])
def test_missing_and_ambiguous_arrays_are_refused(folder, form, arrays, words):
    (folder / "features_test.h5").unlink()
    path = folder / f"features_test.{form}"
    write_h5(path, **arrays) if form == "h5" else np.savez(path, **arrays)
    refused(folder, f"features_test.{form}", *words)


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_and_pickles_are_refused(folder, form):
    write(folder, "val", form)
    path = folder / f"features_val.{form}"
    content = path.read_bytes()
    for size in (0, 40, len(content) - 30):
        path.write_bytes(content[:size])
        refused(folder, f"features_val.{form}")
    if form != "h5":
        write(folder, "val", form, labels=np.array([{}, {}], object))
        refused(folder, "_val.", "cannot be read")


def test_entry_needs_a_folder_has_no_images_and_knows_whether_there_is_a_val_part(folder):
    from longtail.data.params import DatasetParams

    entry, params = SOURCES.get("features"), DatasetParams(dataset="features", data_root=str(folder))
    assert entry.needs_data_root and not entry.has_images
    assert entry.has_val(params) is False
    write(folder, "val", "npy")
    assert entry.has_val(params) is True
    assert entry.has_val(DatasetParams(dataset="features", data_root=str(folder / "none"))) is None
    (folder / "notes.txt").write_text("not read")
    assert entry.files(params) == {path.name: path for path in folder.iterdir() if path.name != "notes.txt"}
