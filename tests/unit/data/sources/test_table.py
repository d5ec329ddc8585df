"""Tables of images, as people and programs write them."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longtail.core.errors import DataError
from longtail.data.params import ColumnParams, DatasetParams, ListParams
from longtail.data.sources import table
from longtail.data.sources.base import Source

ROWS = [
    ("a/1.jpg", "nv", "train", "p1"),
    ("b/2.jpg", "mel", "Train", ""),
    ("c 3.jpg", "nv", "TEST", "p2"),
    ("d/4.jpg", "mel", "validation", "p3"),
    ("e/5.jpg", "nv", "valid", ""),
    ("f/6.jpg", "mel", "val", ""),
]
NAMES = ("path", "label", "split", "group")


def read(root: Path, name: str, content: str | bytes, relabel: bool = False, **columns: str | None) -> Source:
    (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return table.load(root, {"all": root / name}, ColumnParams(**columns), relabel)


def separated(rows=ROWS, names=NAMES, by: str = ",") -> str:
    return "".join(by.join(row) + "\n" for row in (names, *rows))


def counts(source: Source) -> dict[str, int]:
    numbers = np.bincount(source.labels, minlength=len(source.class_names))
    return dict(zip(source.class_names, numbers.tolist(), strict=True))


def check(source: Source) -> None:
    """``source`` holds ``ROWS``."""
    assert source.paths == tuple(row[0] for row in ROWS)
    assert [source.class_names[label] for label in source.labels] == [row[1] for row in ROWS]
    assert source.parts.tolist() == ["train", "train", "test", "val", "val", "val"]
    assert source.groups == tuple(row[3] for row in ROWS)
    assert source.class_names == ("mel", "nv")
    assert source.columns is None


JSON_LINES = "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", separated()),
        ("a.csv", separated(by=";")),
        ("a.csv", separated(by="\t")),
        ("a.tsv", separated(by="\t")),
        ("A.CSV.GZ", gzip.compress(separated().encode())),
        ("a.tsv.gz", gzip.compress(separated(by="\t").encode())),
        ("a.csv", separated().encode("utf-8-sig").replace(b"\n", b"\r\n")),
        ("a.csv", separated(by="\t").encode("utf-16")),
        ("a.csv", separated().replace("/", "\\").replace("\n", "  \n\n")),
        ("a.csv", separated([tuple(f'"{field}"' for field in row) for row in ROWS])),
        ("a.csv", separated([(f"'{row[0]}'", *row[1:]) for row in [*ROWS, ROWS[0]]])),
        ("a.jsonl", JSON_LINES),
        ("a.ndjson", "\ufeff" + JSON_LINES.replace("\n", "\r\n\r\n")),
        ("a.jsonl.gz", gzip.compress(JSON_LINES.encode())),
    ],
)
def test_every_form_gives_the_same_source(tmp_path, name, content):
    check(read(tmp_path, name, content))


def test_parquet_gives_the_same_source_whatever_its_types(tmp_path, monkeypatch):
    frame = pd.DataFrame(ROWS, columns=list(NAMES)).astype({"label": "category"})
    frame.loc[frame["group"] == "", "group"] = None
    monkeypatch.setattr(pd, "read_parquet", lambda path: frame)
    check(read(tmp_path, "a.parquet", ""))
    numbers = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "label": [1.0, 0.0], "group": [3.0, np.nan]})
    monkeypatch.setattr(pd, "read_parquet", lambda path: numbers)
    source = read(tmp_path, "a.parquet", "")
    assert (source.labels.tolist(), source.groups, set(source.parts)) == ([1, 0], ("3", ""), {"all"})


def test_parquet_without_its_package_is_refused_with_the_remedy(tmp_path, monkeypatch):
    def missing(path: Path) -> None:
        raise ImportError("no engine\nand much more")

    monkeypatch.setattr(pd, "read_parquet", missing)
    with pytest.raises(DataError, match=r"a\.pq needs pyarrow, .* `pip install 'longtail\[parquet\]'`, or save .* CSV"):
        read(tmp_path, "a.pq", "")


def test_damaged_parquet_is_refused_by_name(tmp_path, monkeypatch):
    def damaged(path: Path) -> None:
        raise ValueError("magic bytes\nmissing" + "x" * 1000)

    monkeypatch.setattr(pd, "read_parquet", damaged)
    with pytest.raises(DataError, match=r"table .*a\.parquet cannot be read: 'magic bytes missingx*\.\.\.'$"):
        read(tmp_path, "a.parquet", "")


def test_columns_are_found_by_the_names_that_are_given(tmp_path):
    content = separated(names=("image_id", "dx", "fold", "patient"))
    given = {"path": "image_id", "label": "dx", "split": "fold", "group": "patient"}
    check(read(tmp_path, "a.csv", content, **given))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "columns.path must be a column of .*, got 'path'; it has image_id, Label, fold, patient$"),
        ({"path": "image"}, r"columns.path .* got 'image' \(did you mean columns.path: image_id\?\); it has image_id"),
        ({"path": "image_id"}, r"columns.label .* got 'label' \(did you mean columns.label: Label\?\)"),
        (
            {"path": "image_id", "label": "Label", "split": "flod"},
            r"columns.split .*\(did you mean .*split: fold",
        ),
        ({"path": "image_id", "label": "Label", "group": "site"}, "columns.group must be a column of .*, got 'site'"),
    ],
)
def test_missing_column_is_refused_with_those_that_exist(tmp_path, columns, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, "a.csv", separated(names=("image_id", "Label", "fold", "patient")), **columns)


def test_many_and_long_column_names_are_cut(tmp_path):
    names = [f"{'x' * 100}{number}" for number in range(1000)]
    with pytest.raises(DataError, match=r"and 980 more$") as caught:
        read(tmp_path, "a.csv", ",".join(names) + "\n" + ",".join("1" * 1000) + "\n")
    assert len(str(caught.value)) < 1200


def test_without_split_and_with_null_all_rows_are_one_part(tmp_path):
    assert set(read(tmp_path, "a.csv", "path,label\na.jpg,0\nb.jpg,1\n").parts) == {"all"}
    source = read(tmp_path, "a.csv", separated(), split=None, group=None)
    assert set(source.parts) == {"all"} and source.groups == ()
    assert source.columns is not None and list(source.columns) == ["path", "split", "group"]


@pytest.mark.parametrize("given", ["", "fold1", "0"])
def test_field_of_split_that_is_no_part_is_refused_with_its_line(tmp_path, given):
    with pytest.raises(
        DataError, match=rf"a\.csv, line 3 must have train, val, .* in the column split, got '{given}'$"
    ):
        read(tmp_path, "a.csv", f"path,label,split\na.jpg,0,train\nb.jpg,1,{given}\nc.jpg,1,x\n")


@pytest.mark.parametrize(("part", "missing"), [("train", "test"), ("test", "train")])
def test_split_without_train_or_test_is_refused(tmp_path, part, missing):
    with pytest.raises(DataError, match=rf"train and test rows in the column split, got no {missing} row; col"):
        read(tmp_path, "a.csv", f"path,label,split\na.jpg,0,{part}\nb.jpg,1,val\n")


def test_tables_of_parts_are_joined(tmp_path):
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.csv").write_text(f"label,path,site,split\n0,{part}/a.jpg,{part},x\n1,{part}/b.jpg,,x\n")
    (tmp_path / "test.csv").write_text("label,path\n0,test/a.jpg\n")
    lists = ListParams(train="train.csv", val="val.csv", test="test.csv")
    params = DatasetParams(dataset="table", data_root=str(tmp_path), lists=lists, columns=ColumnParams(group="site"))
    with pytest.raises(DataError, match=r"columns\.group must be a column of .*test\.csv, got 'site'"):
        table.SOURCE.load(params, tmp_path)
    source = table.load(tmp_path, table.tables_of(params), ColumnParams(), False)
    assert source.parts.tolist() == ["train", "train", "val", "val", "test"]
    assert source.labels.tolist() == [0, 1, 0, 1, 0]
    assert set(source.digests) == {"lists.train", "lists.val", "lists.test"} == set(table.SOURCE.files(params))
    assert source.columns is not None and source.columns["site"].tolist() == ["train", "", "val", "", ""]
    assert table.SOURCE.has_val(params)


def test_further_columns_are_kept_by_path_for_each_image_once(tmp_path):
    content = "age,path,label,,location\n3,./a.jpg,0,x,'eye, left'\n4,b.jpg,1,y,\n3,a.jpg,0,z,\n"
    source = read(tmp_path, "a.csv", content.replace("'", '"'))
    assert source.columns is not None
    assert source.columns.to_dict("list") == {
        "path": ["a.jpg", "b.jpg"],
        "age": ["3", "4"],
        "location": ["eye, left", ""],
    }


def test_values_of_json_lines_may_be_of_any_type(tmp_path):
    rows = [{"path": "a.jpg", "label": 1, "tags": ["x"], "ok": True}, {"path": "b.jpg", "label": 0.0, "group": 7}]
    source = read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert (source.labels.tolist(), source.groups) == ([1, 0], ("", "7"))
    assert source.columns is not None
    assert source.columns.to_dict("list") == {"path": ["a.jpg", "b.jpg"], "tags": ['["x"]', ""], "ok": ["True", ""]}


@pytest.mark.parametrize("given", [{"label": "7"}, {"label": "-1"}, {"label": ""}, {"path": ""}, {"path": "../a.jpg"}])
def test_unusable_field_is_refused_with_its_line(tmp_path, given):
    row = {"path": "b.jpg", "label": "1", **given}
    with pytest.raises(DataError, match=r"a\.csv(, line 3 must have| must have labels 0 to C-1 without gaps)"):
        read(tmp_path, "a.csv", f"path,label\na.jpg,0\n{row['path']},{row['label']}\n")


def test_relabel_closes_gaps(tmp_path):
    assert read(tmp_path, "a.csv", "path,label\na.jpg,3\nb.jpg,8\n", relabel=True).labels.tolist() == [0, 1]


def test_contradictions_are_refused_with_their_lines(tmp_path):
    with pytest.raises(DataError, match=r"^a\.jpg must have one label, got 'x' \(.*, line 2\) and 'y' \(.*, line 3\)$"):
        read(tmp_path, "a.csv", "path,label\na.jpg,x\na.jpg,y\n")
    with pytest.raises(DataError, match=r"^a\.jpg must have one group, got 'p' \(.*, line 2\) and 'q' \(.*, line 3\)$"):
        read(tmp_path, "a.csv", "path,label,group\na.jpg,x,p\na.jpg,x,q\n")
    with pytest.raises(DataError, match=r"^a\.jpg must be in one of train, val and test, got train .* and test .*: 1$"):
        read(tmp_path, "a.csv", "path,label,split\na.jpg,x,train\na.jpg,x,test\n")


def test_group_in_two_parts_is_refused_with_the_number_and_the_way_out(tmp_path):
    content = "path,label,split,group\na.jpg,x,train,p\nb.jpg,y,train,q\nc.jpg,x,test,q\nd.jpg,y,test,p\n"
    wanted = r"^group 'q' must be in one of .*, got train \(.*3\) and test \(.*4\); .*: 2 \(columns\.group: null"
    with pytest.raises(DataError, match=wanted):
        read(tmp_path, "a.csv", content)
    assert len(read(tmp_path, "a.csv", content, group=None).paths) == 4


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "path,label\na.jpg,0,1\n", "line 2 must have 2 fields like the header, got 3"),
        ("a.csv", 'path,label\n"a.jpg,0\nb.jpg,1\n', "line .* cannot be read"),
        ("a.csv", "path,label,path\na.jpg,0,1\n", "columns of different names, got 'path' twice"),
        ("a.csv", "path,label\n", r"table .*a\.csv is empty"),
        ("a.csv", "", r"table .*a\.csv is empty"),
        ("a.csv", b"path,label\n\xe4.jpg,0\n", r"table .*a\.csv cannot be read: 'utf-8' codec"),
        ("a.csv", "path,label\na\0.jpg,0\n", "line 2 has a NUL byte"),
        ("a.csv.gz", "path,label\n", r"a\.csv\.gz cannot be read"),
        ("a.jsonl", '{"path": "a.jpg"}\n[1]\n', r"line 2 must be one JSON object, got '\[1\]'"),
        ("a.jsonl", "{" + "x" * 1000, r"line 1 must be one JSON object, got '\{x{76}\.\.\.'$"),
        ("a.jsonl", "[" * 100_000, "line 1 must be one JSON object"),
        ("a.jsonl", '{"path": "a\\n.jpg", "label": 1}', "line 1 must have the path of an image, got 'a.*n.jpg'"),
        ("a.jsonl", '{"path": "a.jpg", "label": "\\ud800"}', "line 1 must have as label a name"),
        ("a.json", "{}", r"table .*a\.json must be \.csv, \.tsv, \.jsonl, \.ndjson, one of these with \.gz, or"),
        ("a.xlsx", "PK", r"table .*a\.xlsx must be"),
    ],
)
def test_unreadable_table_is_refused_in_one_sentence(tmp_path, name, content, words):
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path, name, content)
    assert len(str(caught.value)) - len(str(tmp_path)) < 300 and "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [lambda k: f"class {k}", str, lambda k: f"{k}.0"])
def test_any_order_of_the_rows_gives_the_same_counts_by_class_name(tmp_path, label):
    rng = np.random.default_rng(0)
    rows = [(f"{k % 3}/{k}.jpg", label(min(k % 6, k % 4)), "train" if k % 5 else "test", f"g{k}") for k in range(60)]
    found = [counts(read(tmp_path, "a.csv", separated([rows[k] for k in rng.permutation(60)]))) for _ in range(5)]
    assert all(one == found[0] for one in found)
    assert sum(found[0].values()) == 60


def test_names_sort_naturally(tmp_path):
    rows = [(f"{name}.jpg", name) for name in ("class 10", "class 2", "Bee", "ant")]
    assert read(tmp_path, "a.csv", separated(rows, ("path", "label"))).class_names == (
        "ant",
        "Bee",
        "class 2",
        "class 10",
    )
