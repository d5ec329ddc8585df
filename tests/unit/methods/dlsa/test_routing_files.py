"""``models/dlsa_routing.h5``: what was written comes back, equal content has equal bytes, and damage is refused."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from longtail.artifacts.hdf5 import write_hdf5
from longtail.core.errors import ArtifactError
from longtail.methods.dlsa.routing_file import SCHEMA, RoutedPart, RoutingFile, read_routing, write_routing


def part(rows: int, levels: int = 2, first: int = 0) -> RoutedPart:
    stream = np.random.default_rng(rows)
    return RoutedPart(
        index=np.arange(first, first + rows),
        label=stream.integers(3, size=rows),
        route=stream.integers(1, levels + 2, size=rows),
        log_likelihood=stream.normal(size=(rows, levels)).astype(np.float32),
        cluster=stream.integers(4, size=(rows, levels)),
    )


ROUTING = RoutingFile(
    depth=2,
    num_clusters=4,
    split_digest="abc",
    train_counts=np.array([5, 3, 1]),
    thresholds=np.array([-1.5, -np.inf]),
    parts={"train": part(9), "val": part(3, first=9), "test": part(6, first=12)},
    histories={
        "flow/1/epoch": np.array([1.0, 2.0]),
        "flow/1/log_likelihood/val": np.array([[-1.0, -2.0, np.nan], [-0.5, -1.0, np.nan]]),
        "control/loss": np.array([0.5, 0.25]),
    },
    notes={"preset": "small", "depth": 2, "flow_1_rule": "held_out"},
    control_notes={"head_1_epoch": 3},
)
MADE_BY = "train_dlsa"


def equal(a: RoutingFile, b: RoutingFile) -> bool:
    """NaN equals NaN; dtypes count."""

    def flat(routing: RoutingFile) -> dict[str, np.ndarray]:
        arrays = {"train_counts": routing.train_counts, "thresholds": routing.thresholds, **routing.histories}
        return arrays | {f"{n}/{c}": v for n, one in routing.parts.items() for c, v in vars(one).items()}

    left, right = flat(a), flat(b)
    return (
        left.keys() == right.keys()
        and all(left[n].dtype == right[n].dtype and left[n].tobytes() == right[n].tobytes() for n in left)
        and all(left[n].shape == right[n].shape for n in left)
        and all(
            getattr(a, n) == getattr(b, n) for n in ("depth", "num_clusters", "split_digest", "notes", "control_notes")
        )
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_routing(tmp_path / "dlsa_routing.h5", ROUTING)
    return tmp_path / "dlsa_routing.h5"


def refused(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_routing(path, MADE_BY)
    assert str(path) in str(caught.value)
    assert caught.value.maker == MADE_BY
    return str(caught.value)


def test_what_was_written_comes_back(path: Path) -> None:
    assert equal(read_routing(path, MADE_BY), ROUTING)


def test_file_without_val_levels_histories_and_notes_comes_back(tmp_path: Path) -> None:
    plain = RoutingFile(
        depth=0,
        num_clusters=2,
        split_digest="",
        train_counts=np.array([2, 2]),
        thresholds=np.zeros(0),
        parts={"train": part(4, levels=0), "test": part(2, levels=0)},
    )
    write_routing(tmp_path / "a.h5", plain)
    found = read_routing(tmp_path / "a.h5", MADE_BY)
    assert equal(found, plain)
    assert set(found.parts) == {"train", "test"}
    assert found.parts["test"].cluster.shape == (2, 0)


def test_equal_content_has_equal_bytes_whatever_its_order(path: Path, tmp_path: Path) -> None:
    def backwards(mapping: dict) -> dict:
        return dict(reversed(mapping.items()))

    again = dataclasses.replace(
        ROUTING,
        parts=backwards(ROUTING.parts),
        histories=backwards(ROUTING.histories),
        notes=backwards(ROUTING.notes),
    )
    write_routing(tmp_path / "elsewhere" / "again.h5", again)
    assert (tmp_path / "elsewhere" / "again.h5").read_bytes() == path.read_bytes()


def test_bytes_depend_on_every_part(tmp_path: Path) -> None:
    test = ROUTING.parts["test"]
    changes = [
        {},
        {"depth": 3},
        {"num_clusters": 5},
        {"split_digest": "abd"},
        {"train_counts": np.array([5, 3, 2])},
        {"thresholds": np.array([-1.5, 0.0])},
        {"parts": ROUTING.parts | {"test": dataclasses.replace(test, route=test.route[::-1])}},
        {"histories": ROUTING.histories | {"control/loss": np.array([0.5, 0.5])}},
        {"notes": {"preset": "latent"}},
        {"control_notes": {}},
    ]
    files = set()
    for change in changes:
        write_routing(tmp_path / "a.h5", dataclasses.replace(ROUTING, **change))
        files.add((tmp_path / "a.h5").read_bytes())
    assert len(files) == len(changes)


def test_missing_file_names_its_stage(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.h5").endswith("is missing")


@pytest.mark.parametrize(
    "missing",
    ["parts/train/route", "parts/test/label", "parts/val/cluster", "train_counts", "thresholds", "depth",
     "num_clusters", "split_digest"],
)  # fmt: skip
def test_missing_dataset_or_attribute_is_named(path: Path, missing: str) -> None:
    with h5py.File(path, "r") as file:
        datasets: dict[str, np.ndarray] = {}
        file.visititems(lambda name, item: datasets.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
        attributes = {name: getattr(value, "item", lambda v=value: v)() for name, value in file.attrs.items()}
    del attributes["schema"]
    kept = {name: array for name, array in datasets.items() if name != missing}
    write_hdf5(path, kept, {name: v for name, v in attributes.items() if name != missing}, schema=SCHEMA)
    assert refused(path).endswith(f"lacks {missing}")


@pytest.mark.parametrize("part", ["train", "test"])
def test_file_without_train_or_test_names_all_that_is_missing(tmp_path: Path, part: str) -> None:
    parts = {name: rows for name, rows in ROUTING.parts.items() if name != part}
    write_routing(tmp_path / "a.h5", dataclasses.replace(ROUTING, parts=parts))
    message = refused(tmp_path / "a.h5")
    assert all(f"parts/{part}/{column}" in message for column in ("index", "label", "route", "cluster"))


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
    write_hdf5(tmp_path / "a.h5", {}, {}, schema="longtail/head/1")
    assert "longtail/head/1" in refused(tmp_path / "a.h5")
