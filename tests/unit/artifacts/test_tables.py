"""CSV and JSON files."""

import pandas as pd
import pytest

from longtail.artifacts.tables import read_csv, read_json, write_csv, write_json
from tests.refusals import refused

COLUMNS = ("part", "index", "label")


def test_csv_keeps_awkward_text(tmp_path):
    names = ["NA", "null", "", "1.0", "007", "a,b", 'say "hi"', " spaced ", "Möwe", "two\nlines", "nan"]
    write_csv(tmp_path / "a.csv", pd.DataFrame({"label": range(len(names)), "name": names}))
    found = read_csv(tmp_path / "a.csv", made_by="x", columns=("label", "name"), text=("name",))
    assert found["name"].tolist() == names
    assert found["label"].tolist() == list(range(len(names)))


def test_csv_has_line_feeds_only_and_no_row_index(tmp_path):
    write_csv(tmp_path / "a.tsv", pd.DataFrame({"a": [1], "b": [0.5]}), sep="\t")
    assert (tmp_path / "a.tsv").read_bytes() == b"a\tb\n1\t0.5\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"part,index\n", b"index,part,label\n", b"\xff\xfe\0", b'part,index,label\n"train,1,2\n', b"a\nb,c,d\n1,2\n"],
)
def test_csv_that_is_damaged_or_has_other_columns_is_refused(tmp_path, content):
    (tmp_path / "split.csv").write_bytes(content)
    with refused(r"split\.csv", "subsample"):
        read_csv(tmp_path / "split.csv", made_by="subsample", columns=COLUMNS, text=("part",))


@pytest.mark.parametrize("last", ["te", "test", "test,", "test,6", "test,6,"])
def test_csv_cut_inside_its_last_row_is_refused(tmp_path, last):
    (tmp_path / "split.csv").write_text(f"part,index,label\ntrain,5,1\n{last}")
    with refused(r"split\.csv", "subsample"):
        read_csv(tmp_path / "split.csv", made_by="subsample", columns=COLUMNS, text=("part",))


def test_missing_tables_name_file_and_stage(tmp_path):
    with refused(r"a\.csv is missing$", "subsample", missing=True):
        read_csv(tmp_path / "a.csv", made_by="subsample", columns=COLUMNS)
    with refused(r"a\.json is missing$", "prepare", missing=True):
        read_json(tmp_path / "a.json", made_by="prepare")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_json_refuses_numbers_that_are_not_finite_and_writes_nothing(tmp_path, bad):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"crt": {"all": bad}})
    assert list(tmp_path.iterdir()) == []


def test_json_is_sorted_readable_and_ends_with_a_line_feed(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": {"ö": 0.25}})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "a": {\n    "ö": 0.25\n  },\n  "b": 1\n}\n'
    assert read_json(tmp_path / "a.json", made_by="x") == {"a": {"ö": 0.25}, "b": 1}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff"])
def test_damaged_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with refused(r"a\.json is damaged", "prepare"):
        read_json(tmp_path / "a.json", made_by="prepare")
