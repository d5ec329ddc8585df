"""File lists: the published ones, and one's own."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from longtail.core.errors import DataError
from longtail.data.manifest import read_manifest
from longtail.data.params import DatasetParams, ListParams
from longtail.data.sources import file_lists
from longtail.data.sources.base import Source
from longtail.data.splits import make_split
from tests.unit.data.helpers import make_folder, run_prepare

LISTS = {
    "ImageNet_LT_val": (20000, 1000, 20, 20),
    "ImageNet_LT_test": (50000, 1000, 50, 50),
    "ImageNet_LT_90_train": (7614, 90, 507, 6),
    "ImageNet_LT_90_val": (1800, 90, 20, 20),
    "ImageNet_LT_90_test": (4500, 90, 50, 50),
    "Places_LT_train": (62500, 365, 4980, 5),
    "Places_LT_val": (7300, 365, 20, 20),
    "Places_LT_test": (36500, 365, 100, 100),
    "iNaturalist18_val": (24426, 8142, 3, 3),
}


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """Paths and labels of a list with numbers."""
    rows = file_lists.read_list(path)
    return [row.path for row in rows], np.array([int(row.label) for row in rows])


@pytest.fixture(scope="module")
def class_counts(splits) -> dict[str, list[int]]:
    return json.loads((splits / "class_counts.json").read_text())


def counts_of(source: Source, part: str = "train") -> np.ndarray:
    return np.bincount(source.labels[source.parts == part], minlength=len(source.class_names))


def groups(counts: np.ndarray) -> tuple[int, int, int]:
    """Many above 100, few below 20."""
    return int((counts > 100).sum()), int(((counts >= 20) & (counts <= 100)).sum()), int((counts < 20).sum())


def test_every_list_at_hand_is_checked(splits):
    assert {path.name.removesuffix(".txt.gz") for path in splits.glob("*.gz")} == set(LISTS)


@pytest.mark.parametrize("name", LISTS)
def test_published_list_has_its_rows_and_class_counts(splits, name):
    paths, labels = read(splits / f"{name}.txt.gz")
    counts = np.unique(labels, return_counts=True)[1]
    assert (len(paths), len(counts), counts.max(), counts.min()) == LISTS[name]
    assert len(labels) == len(set(paths)) == len(paths)
    assert all("/" in path and " " not in path for path in paths)


def test_places_counts_and_groups_are_the_published_ones(places, class_counts):
    counts = counts_of(places)
    assert counts.tolist() == class_counts["Places_LT_train"]
    assert groups(counts) == (131, 163, 71)
    assert set(counts_of(places, "val")) == {20}
    assert set(counts_of(places, "test")) == {100}
    assert len(set(places.class_names)) == 365


def test_places_keeps_the_order_of_its_lists_and_splits_as_published(places, splits):
    paths, labels = read(splits / "Places_LT_train.txt.gz")
    assert places.paths[:62500] == tuple(paths)
    split = make_split(
        places.labels,
        places.parts,
        places.class_names,
        imb_type="natural",
        imb_factor=100,
        val_per_class=20,
        split_seed=0,
    )
    assert (len(split.train), len(split.val), len(split.test)) == (62500, 7300, 36500)
    np.testing.assert_array_equal(np.sort(split.train), np.arange(62500))
    assert np.bincount(labels).tolist() == np.bincount(places.labels[split.train]).tolist()


def test_imagenet_lt_groups_are_the_published_ones(class_counts):
    counts = np.array(class_counts["ImageNet_LT_train"])
    assert (counts.sum(), counts.max(), counts.min()) == (115846, 1280, 5)
    assert groups(counts) == (385, 479, 136)


def test_gaps_are_refused_and_relabel_numbers_what_occurs(splits, class_counts):
    lists = {part: splits / f"ImageNet_LT_90_{part}.txt.gz" for part in ("train", "val", "test")}
    with pytest.raises(DataError, match=r"ImageNet_LT_90_train.*must have labels 0 to C-1 without gaps.*relabel: true"):
        file_lists.load(Path("/data"), lists, relabel=False)
    source = file_lists.load(Path("/data"), lists, relabel=True)
    known = np.unique(read(lists["train"])[1])
    assert counts_of(source).tolist() == np.array(class_counts["ImageNet_LT_train"])[known].tolist()
    assert set(counts_of(source, "test")) == {50}
    assert len(source.class_names) == 90
    assert source.class_names[0].startswith("n")


def write_lists(root: Path, train: str, test: str = "a/9.jpg 0\nb/9.jpg 1\n", **options) -> Source:
    (root / "train.txt").write_text(train)
    (root / "test.txt").write_text(test)
    lists = {part: root / f"{part}.txt" for part in ("train", "test")}
    return file_lists.load(root, lists, **{"relabel": False} | options)


def test_lists_are_read_plain_and_zipped_with_blank_lines_and_blanks_in_paths(tmp_path):
    text = "a dir/1.jpg 0\n\nb/2.jpg\t1\r\nc/3.jpg   2 \n"
    (tmp_path / "plain.txt").write_bytes(text.encode())
    (tmp_path / "zipped.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("plain.txt", "zipped.txt.gz"):
        paths, labels = read(tmp_path / name)
        assert paths == ["a dir/1.jpg", "b/2.jpg", "c/3.jpg"]
        assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("line", ["a/2.jpg", "7", "a,1", "0 a/2.jpg", "0 2.JPG", "my cat.jpg,0", "a/2.jpg b\\c"])
def test_malformed_line_is_named_with_its_number(tmp_path, line):
    with pytest.raises(DataError, match=r"train\.txt, line 3 must be `relative/path label`, got ") as caught:
        write_lists(tmp_path, f"a/1.jpg 0\n\n{line}\n")
    assert repr(line) in str(caught.value)
    assert ("dataset: table reads CSV" in str(caught.value)) == ("," in line)


@pytest.mark.parametrize("label", ["-1", "1.5", "1e3", "+1", "''"])
def test_number_that_is_no_label_is_named_with_its_line(tmp_path, label):
    with pytest.raises(DataError, match=r"train\.txt, line 2 must have as label a name or a whole number of at most 9"):
        write_lists(tmp_path, f"a/1.jpg 0\nb/1.jpg {label}\n")


def test_numbers_beside_names_are_refused_with_the_first_line_that_differs(tmp_path):
    wanted = r"train\.txt, line 3: label 'x' is a name, but '0' \(.*train\.txt, line 1\) is a number$"
    with pytest.raises(DataError, match=wanted):
        write_lists(tmp_path, "a/1.jpg 0\nb/1.jpg 1\nb/2.jpg x\n")


@pytest.mark.parametrize("label", ["1000000000000", "99999999999999999999999", "9" * 5000])
def test_absurd_label_is_refused_at_once(tmp_path, label):
    with pytest.raises(DataError, match=r"train\.txt"):
        write_lists(tmp_path, f"a/1.jpg 0\nb/1.jpg {label}\n", "a/9.jpg 0\n")


def test_label_that_train_does_not_have_is_refused_with_its_list(tmp_path):
    with pytest.raises(DataError, match=r"test\.txt, line 2: label 2 \(c/9\.jpg\) does not occur in .*train\.txt"):
        write_lists(tmp_path, "a/1.jpg 0\nb/1.jpg 1\n", "a/9.jpg 0\nc/9.jpg 2\n")


def test_gap_is_named(tmp_path):
    with pytest.raises(DataError, match=r"without gaps, got 3 but not 1"):
        write_lists(tmp_path, "a/1.jpg 0\nb/1.jpg 3\nc/1.jpg 2\n", "a/9.jpg 0\n")
    source = write_lists(tmp_path, "a/1.jpg 0\nb/1.jpg 3\nc/1.jpg 2\n", "a/9.jpg 3\n", relabel=True)
    assert source.labels.tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize(
    ("paths", "names"),
    [(("cat/1.jpg", "dog/1.jpg"), ("cat", "dog")), (("x/1.jpg", "x/2.jpg"), ("0", "1")), (("1.jpg", "2"), ("0", "1"))],
)
def test_classes_are_named_by_their_folders_where_these_differ(tmp_path, paths, names):
    source = write_lists(tmp_path, f"{paths[0]} 0\n{paths[1]} 1\n", "cat/9.jpg 0\ndog/9.jpg 1\n")
    assert source.class_names == names


@pytest.mark.parametrize("train", ["", "\n\n"])
def test_empty_list_is_refused(tmp_path, train):
    with pytest.raises(DataError, match=r"train\.txt is empty"):
        write_lists(tmp_path, train)


def test_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"list file .*none\.txt is missing"):
        file_lists.read_list(tmp_path / "none.txt")


def test_damaged_list_is_refused_by_name(tmp_path):
    whole = gzip.compress(b"".join(b"a/%d.jpg %d\n" % (i * 7919 % 1000, i % 3) for i in range(200)))
    for position in range(10, len(whole), 3):
        (tmp_path / "a.gz").write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with pytest.raises(DataError, match=r"a\.gz"):
            file_lists.read_list(tmp_path / "a.gz")
    (tmp_path / "a.gz").write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"list file .*a\.gz cannot be read"):
        file_lists.read_list(tmp_path / "a.gz")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe 0\n")
    with pytest.raises(DataError, match=r"list file .*a\.txt cannot be read"):
        file_lists.read_list(tmp_path / "a.txt")


def test_lists_are_prepared_from_files(tmp_path):
    make_folder(tmp_path / "in")
    rows = {
        part: [f"{part}/{name}/{i}.png {k}" for k, name in enumerate(("cat", "dog")) for i in (1, 0)]
        for part in ("train", "test")
    }
    (tmp_path / "in" / "train.txt").write_text("\n".join(rows["train"]))
    (tmp_path / "in" / "test.txt").write_text("\n".join(rows["test"]))
    lists = {part: tmp_path / "in" / f"{part}.txt" for part in rows}
    info = run_prepare(file_lists.load(tmp_path / "in", lists, relabel=False), tmp_path / "out", storage="paths")
    manifest = read_manifest(tmp_path / "out")
    assert info.num_classes == 2
    assert manifest.paths[:2].tolist() == ["train/cat/1.png", "train/cat/0.png"]
    assert manifest.class_names == ("cat", "dog")


# As people write them


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfcat/1.jpg 0\r\nb dir/2.jpg 1\r\n",
        "cat/1.jpg 0\r\nb dir/2.jpg 1\r\n".encode("utf-16"),
        b"cat/1.jpg 0\rb dir/2.jpg 1\r",
        b"cat/1.jpg 0.0  \nb dir/2.jpg 1.0\t \n",
        b"cat/1.jpg 00\nb dir/2.jpg 1.\n",
        b"cat\\1.jpg 0\nb dir\\2.jpg 1\n",
        b"./cat/1.jpg 0\nx/..//b dir/2.jpg 1\n",
        b'"cat/1.jpg" 0\n\'b dir/2.jpg\' "1"\n',
        b"'cat/1.jpg\t0\nb dir/2.jpg\t1\n".replace(b"'", b""),
        b"# made by hand\n\npath label\ncat/1.jpg 0\n# the rest\nb dir/2.jpg 1\n",
        b"cat/1.jpg 0\nb dir/2.jpg 1\ncat/1.jpg 0.0\ncat\\1.jpg 0\n",
    ],
)
def test_lists_are_read_as_people_write_them(tmp_path, text):
    (tmp_path / "list.txt").write_bytes(text)
    source = file_lists.load(tmp_path, {"train": tmp_path / "list.txt"}, relabel=False)
    assert source.paths == ("cat/1.jpg", "b dir/2.jpg")
    assert source.labels.tolist() == [0, 1]
    assert source.class_names == ("cat", "b dir")


def test_what_is_passed_over_is_told(tmp_path, caplog):
    caplog.set_level("INFO", logger="longtail")
    write_lists(tmp_path, "# x\npath label\na/1.jpg 0\na/1.jpg 0\nb/1.jpg 1\n")
    assert [record.getMessage().removeprefix(f"{tmp_path}/") for record in caplog.records] == [
        "train.txt: 2 comment or header lines are passed over",
        "1 of 5 rows repeat an image of an earlier one; each counts once",
    ]


def test_file_with_a_backslash_in_its_name_is_kept(tmp_path):
    (tmp_path / "a\\1.jpg").touch()
    source = write_lists(tmp_path, "a\\1.jpg 0\nb\\1.jpg 1\n")
    assert source.paths[:2] == ("a\\1.jpg", "b/1.jpg")


def test_names_become_classes_in_natural_order(tmp_path):
    lines = ["x/1.png c10", "x/2.png C2", "x/3.png b", 'x/4.png "polar bear"', "x/5.png\tc 1"]
    source = write_lists(tmp_path, "\n".join(lines), "y/1.png b\n")
    assert source.class_names == ("b", "C2", "c10", "c 1", "polar bear")
    assert [source.class_names[label] for label in source.labels] == ["c10", "C2", "b", "polar bear", "c 1", "b"]


def test_any_order_of_the_lines_gives_the_same_counts_by_class_name(tmp_path):
    rng = np.random.default_rng(0)
    for kind in (str, lambda label: f"{label:.1f}", lambda label: f"name{label}"):
        lines = [f"{part}{i % 2}/{i}.jpg {kind(i % 3 % 2)}" for part in "ab" for i in range(12)]
        lines += lines[:5]
        found = []
        for _ in range(4):
            source = write_lists(tmp_path, "\n".join(rng.permutation(lines)), f"t/9.jpg {kind(0)}")
            found.append(dict(zip(source.class_names, counts_of(source).tolist(), strict=True)))
        assert found[0] == found[1] == found[2] == found[3]
        assert sum(found[0].values()) == 24


def test_contradicting_labels_of_one_image_are_refused(tmp_path):
    wanted = r"^a/1\.jpg must have one label, got '0' \(.*train\.txt, line 1\) and '1' \(.*train\.txt, line 3\)$"
    with pytest.raises(DataError, match=wanted):
        write_lists(tmp_path, "a/1.jpg 0\nb/1.jpg 1\na\\1.jpg 1\nb/1.jpg 0\n")
    with pytest.raises(DataError, match=r"a/1\.jpg must have one label, got '0' .*train\.txt.* and '1' .*test\.txt"):
        write_lists(tmp_path, "a/1.jpg 0\nb/1.jpg 1\n", "a/1.jpg 1\n")


def test_image_in_two_parts_is_refused_with_the_number(tmp_path):
    wanted = (
        r"^b/1\.jpg must be in one of train, val and test, got train \(.*train\.txt, line 2\) and test \(.*test\.txt, "
        r"line 1\); images in more than one part: 2$"
    )
    with pytest.raises(DataError, match=wanted):
        write_lists(tmp_path, "a/1.jpg 0\nb/1.jpg 1\n", "b/1.jpg 1\na/1.jpg 0\nb/1.jpg 1\n")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "C:\\x\\1.jpg", "..", "."])
def test_paths_that_leave_data_root_are_refused(tmp_path, path):
    with pytest.raises(DataError, match=r"train\.txt, line 2 must have a path below data_root"):
        write_lists(tmp_path, f"a/1.jpg 0\n{path} 1\n")


def test_absolute_path_below_data_root_becomes_relative(tmp_path):
    assert write_lists(tmp_path, f"{tmp_path}/a/1.jpg 0\nb/1.jpg 1\n").paths[0] == "a/1.jpg"


def test_nul_byte_is_refused_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"train\.txt must be text, but line 2 has a NUL byte"):
        write_lists(tmp_path, "a/1.jpg 0\nb/1\0.jpg 1\n")


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a.json.gz"])
@pytest.mark.parametrize("text", ['{"images": [%s]}', '[{"file_name": "%s"}]'])
def test_json_is_refused_in_one_short_sentence(tmp_path, name, text):
    content = (text % ("1, " * 100_000)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")) as caught:
        file_lists.read_list(tmp_path / name)
    assert len(str(caught.value)) - len(str(tmp_path)) < 300
    assert "JSON" in str(caught.value)


def test_long_lines_and_control_characters_are_cut_and_escaped(tmp_path):
    with pytest.raises(DataError) as caught:
        write_lists(tmp_path, f"a/1.jpg 0\n\x1b[31m{'x' * 10_000}\n")
    assert len(str(caught.value)) - len(str(tmp_path)) < 200
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    (tmp_path / "a.txt").mkdir() if kind == "folder" else os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"list file .*a\.txt must be a regular file"):
        file_lists.read_list(tmp_path / "a.txt")


def test_home_and_variables_in_list_names_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPLITS", "lists")
    given = ListParams(train="~/a.txt", val="b.txt", test="$SPLITS/c.txt")
    params = DatasetParams(dataset="file_lists", data_root="/x", lists=given)
    wanted = {"train": tmp_path / "a.txt", "val": Path("/x/b.txt"), "test": Path("/x/lists/c.txt")}
    assert file_lists.list_paths(params) == wanted
    assert file_lists.SOURCE.files(params) == {f"lists.{part}": path for part, path in wanted.items()}
