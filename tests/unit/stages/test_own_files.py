"""The content of the user's own files, which decides when ``prepare`` and ``pretrain`` run again."""

import os
from pathlib import Path

import pytest

from longtail.artifacts.checkpoints import save_checkpoint
from longtail.artifacts.digest import file_digest
from longtail.core.errors import ConfigError
from longtail.data.own_files import files_table, write_files
from stages import own_files
from stages.own_files import own_files_digest, weights_digest
from stages.paths import PREPARED, PRETRAINED


@pytest.fixture(autouse=True)
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    for name in ("features_train.h5", "features_test.npz"):
        (own / name).write_text(name)
    return {"dataset": "features", "data_root": str(own)}


def test_digest_follows_names_and_content_but_not_times_or_other_files(content):
    own, first = Path(content["data_root"]), own_files_digest(content)
    assert len(first) == 64
    os.utime(own / "features_train.h5", (1, 1))
    (own / "notes.txt").write_text("not read")
    assert own_files_digest(content) == first
    (own / "features_train.h5").write_text("other rows")
    changed = own_files_digest(content)
    (own / "features_train.h5").rename(own / "features_train.npz")
    assert len({first, changed, own_files_digest(content)}) == 3


def test_file_is_read_once_for_each_change(content, monkeypatch):
    read = []
    monkeypatch.setattr(own_files, "file_digest", lambda path: read.append(path.name) or "0")
    for _ in range(3):
        own_files_digest(content)
    assert sorted(read) == ["features_test.npz", "features_train.h5"]
    own_files.CACHE.write_text("{")  # cut off
    own_files_digest(content)
    assert len(read) == 4


def test_what_was_prepared_counts_where_the_files_are_gone(content):
    before = own_files_digest(content)
    own = Path(content["data_root"])
    digests = {path.name: own_files.known_digest(path) for path in own.iterdir()}
    PREPARED.mkdir(parents=True)
    files_table(PREPARED).write_text("file,sha256\n" + "".join(f"{n},{d}\n" for n, d in sorted(digests.items())))
    for path in own.iterdir():
        path.unlink()
    assert own_files_digest(content) == before
    files_table(PREPARED).unlink()
    assert own_files_digest(content) != before


@pytest.mark.parametrize(
    "given",
    [
        {"dataset": "file_lists", "lists": {"train": "b/list", "test": "list"}},
        {"dataset": "table", "lists": {"train": "b/list", "test": "list"}},
        {"dataset": "table", "table": "b/list"},
    ],
)
def test_lists_and_tables_count_and_what_was_prepared_where_they_are_gone(content, given):
    own = Path(content["data_root"])
    (own / "b").mkdir()
    files = {"lists.train": own / "b" / "list", "lists.test": own / "list"} if "lists" in given else {}
    files = files or {"table": own / "b" / "list"}
    for name, path in files.items():
        path.write_text(name)
    content = content | given
    before = own_files_digest(content)
    for path in files.values():
        text = path.read_text()
        path.write_text("corrected")
        assert own_files_digest(content) != before
        path.write_text(text)
    write_files(PREPARED, {name: own_files.known_digest(path) for name, path in files.items()})
    for path in files.values():
        path.unlink()
        assert own_files_digest(content) == before, "also if only one of them is gone"
    files_table(PREPARED).unlink()
    name, path = next(iter(files.items()))
    with pytest.raises(ConfigError, match=rf"^{name} must be an existing file, got {path}$"):
        own_files_digest(content)


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "image_folder"])
def test_images_do_not_count(content, dataset):
    given = {} if dataset == "digits" else {"data_root": content["data_root"]}
    assert own_files_digest({"dataset": dataset, **given}) == ""


def test_weights_that_were_loaded_count_where_their_file_is_gone(tmp_path):
    path = tmp_path / "a.pth"
    path.write_text("weights")
    before = weights_digest(path)
    assert before == file_digest(path)
    PRETRAINED.parent.mkdir()
    save_checkpoint(PRETRAINED, {}, {"weights": {"source": "a.pth", "sha256": before}})
    path.write_text("other weights")
    assert weights_digest(path) != before, "a file that is there counts"
    path.unlink()
    assert weights_digest(path) == before


@pytest.mark.parametrize("meta", [None, {}, {"weights": {"source": "b.pth", "sha256": "0"}}, {"pretrain": "none"}])
def test_missing_weights_that_nothing_was_made_from_are_refused(meta):
    PRETRAINED.parent.mkdir()
    if meta is not None:
        save_checkpoint(PRETRAINED, {}, meta)
    with pytest.raises(ConfigError, match=r"^pretrain\.weights must be an existing file, got here/a\.pth$"):
        weights_digest(Path("here/a.pth"))
