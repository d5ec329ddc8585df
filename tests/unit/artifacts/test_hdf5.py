"""HDF5 files: what was written comes back, and damage is refused."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from longtail.artifacts.features import read_features, write_features
from longtail.artifacts.hdf5 import read_hdf5, write_hdf5
from longtail.core.errors import ArtifactError
from tests.refusals import refused
from tests.unit.artifacts.helpers import ARRAYS, ATTRIBUTES, FEATURES, SCHEMA, flipped, flips, in_child, same


@pytest.fixture
def h5(tmp_path) -> Path:
    write_hdf5(tmp_path / "a.h5", ARRAYS, ATTRIBUTES, schema=SCHEMA)
    return tmp_path / "a.h5"


def refused_h5(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_hdf5(path, schema=SCHEMA, made_by="rebalance@crt")
    assert str(path) in str(caught.value)
    assert (caught.value.path, caught.value.maker) == (str(path), "rebalance@crt")
    return str(caught.value)


def test_hdf5_returns_what_was_written(tmp_path):
    write_hdf5(tmp_path / "a.h5", ARRAYS, ATTRIBUTES, schema=SCHEMA)
    content = read_hdf5(tmp_path / "a.h5", schema=SCHEMA, made_by="x")
    assert content.attributes == ATTRIBUTES
    assert {name: type(value) for name, value in content.attributes.items()} == {
        name: type(value) for name, value in ATTRIBUTES.items()
    }
    assert content.datasets.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(content.datasets[name], array)
        assert content.datasets[name].dtype == array.dtype


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (1,), (1025, 2), (2, 3, 4, 1)])
def test_hdf5_keeps_arrays_of_any_shape_with_checksums_where_there_is_data(tmp_path, shape):
    array = np.ones(shape, np.float32)
    write_hdf5(tmp_path / "a.h5", {"a": array}, {}, schema=SCHEMA)
    assert read_hdf5(tmp_path / "a.h5", schema=SCHEMA, made_by="x").datasets["a"].shape == shape
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["a"].fletcher32 == (array.size > 0)
        assert file["a"].chunks == ((min(1024, shape[0]), *shape[1:]) if array.size else None)
        assert file["a"].compression is None


@pytest.mark.parametrize("text", ["Möwe 海鸥 🐦", "", "a,b\n'\"", "x" * 5000])
def test_hdf5_keeps_text_attributes(tmp_path, text):
    write_hdf5(tmp_path / "a.h5", {}, {"text": text}, schema=SCHEMA)
    assert read_hdf5(tmp_path / "a.h5", schema=SCHEMA, made_by="x").attributes["text"] == text


def test_hdf5_keeps_names_of_8142_classes(tmp_path):
    names = np.array([f"Klasse ä {i}".encode() for i in range(8142)])
    write_hdf5(tmp_path / "a.h5", {"names": names}, {}, schema=SCHEMA)
    np.testing.assert_array_equal(
        read_hdf5(tmp_path / "a.h5", schema=SCHEMA, made_by="x").datasets["names"].astype(bytes), names
    )


def test_missing_hdf5_names_file_and_stage(tmp_path):
    assert "is missing" in refused_h5(tmp_path / "none.h5")


def test_hdf5_of_another_schema_is_refused_with_both(h5):
    with refused(r"must have the schema 'longtail/other/1', got 'longtail/test/1'", "extract_features"):
        read_hdf5(h5, schema="longtail/other/1", made_by="extract_features")


def test_truncated_hdf5_is_refused_at_every_length(h5):
    content = h5.read_bytes()
    for size in [0, 1, 8, 100, *range(512, len(content), 509), *range(len(content) - 90, len(content))]:
        h5.write_bytes(content[:size])
        refused_h5(h5)


@pytest.mark.parametrize("change", ["value", "attribute", "new", "deleted", "renamed"])
def test_hdf5_changed_by_another_program_is_refused(h5, change):
    with h5py.File(h5, "r+") as file:
        if change == "value":
            file["scores"][0, 0] = 99
        elif change == "attribute":
            file.attrs["tau"] = 0.8
        elif change == "new":
            file["more"] = [1]
        elif change == "deleted":
            del file["label"]
        else:
            file.move("label", "labels")
    refused_h5(h5)


def test_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"not HDF5 at all" * 100)
    refused_h5(tmp_path / "a.h5")


def survey_flips(
    path: Path, content: bytes, positions: list, read: Callable[[], object], expected: object
) -> list[str]:
    """Flip one bit at a time; where reading neither refuses nor returns the same, or takes over 5 s, is named.

    In a child, because a damaged file can crash or hang the HDF5 library itself.
    """
    log = path.with_suffix(".log")

    def work() -> None:
        with open(log, "w", buffering=1) as report:
            for byte, bit in positions:
                signal.alarm(5)
                path.write_bytes(flipped(content, byte, bit))
                try:
                    outcome = "fine" if same(read(), expected) else "returned other content"
                except ArtifactError:
                    outcome = "fine"
                except Exception as error:  # noqa: BLE001 - any other error is a finding
                    outcome = type(error).__name__
                report.write(f"byte {byte} bit {bit}: {outcome}\n")

    status = in_child(work)
    lines = log.read_text().splitlines()
    if os.WIFSIGNALED(status):
        byte, bit = positions[len(lines)]
        lines.append(f"byte {byte} bit {bit}: killed by signal {os.WTERMSIG(status)}")
    return [line for line in lines if not line.endswith(": fine")]


def test_single_bit_flip_in_features_is_refused_or_harmless(tmp_path):
    path = tmp_path / "features_train.h5"
    write_features(path, FEATURES)
    content = path.read_bytes()
    middle = content.index(b"digits") - 64  # text attributes: what the library itself checks least
    everywhere = flips(len(content), 29)
    attributes = [(byte, bit) for byte in range(middle, middle + 160) for bit in (0, 7)]
    assert survey_flips(path, content, everywhere + attributes, lambda: read_features(path), FEATURES) == []


def test_single_bit_flip_in_a_large_chunked_file_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    array = np.random.default_rng(0).normal(size=(2500, 8)).astype(np.float32)
    write_hdf5(path, {"a": array}, {"n": 1}, schema=SCHEMA)
    content, expected = path.read_bytes(), read_hdf5(path, schema=SCHEMA, made_by="x")

    def read() -> object:
        found = read_hdf5(path, schema=SCHEMA, made_by="x")
        assert found.attributes == expected.attributes
        return type("Plain", (), {})() if not np.array_equal(found.datasets["a"], array) else expected

    assert survey_flips(path, content, flips(len(content), 4099), read, expected) == []
