"""Stored chains."""

import numpy as np
import pytest
import torch

from longtail.methods.dlsa import DLSA
from longtail.methods.dlsa.stored import load_chain, save_chain
from tests.refusals import refused
from tests.unit.methods.dlsa.helpers import COSINE, FAST, START, TEST, VAL, X, Y, fitted

STORED = [
    {"depth": 2},
    {"depth": 0},
    {"preset": "latent"},
    {"depth": 2, "heads": "shared", "routing": "random"},
    {"classifier": "cosine", "loss": "ce", "z": "none"},
    {"depth": 2, "standardize": False, "head": COSINE},
    {"depth": 2, "flow_dims": 4},
    {"preset": "latent", "flow_dims": 4},
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("settings", STORED, ids=range(len(STORED)))
def test_stored_chain_gives_identical_routes_and_scores_and_the_same_bytes_twice(settings, dtype, tmp_path):
    rows = TEST[0].astype(dtype)
    model = DLSA(**FAST | {"head": START} | settings).fit(X.astype(dtype), Y, VAL[0].astype(dtype), VAL[1])
    digest = save_chain(tmp_path / "chain.pt", model.chain_, {"split": "abc"})
    assert save_chain(tmp_path / "again.pt", model.chain_, {"split": "abc"}) == digest
    chain, meta = load_chain(tmp_path / "chain.pt")
    assert meta == {"split": "abc"}
    assert chain.settings == model.settings_
    x = torch.from_numpy(rows)
    found, expected = chain.routing(x), model.trace(rows)
    for name in ("route", "log_density", "cluster"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert chain.scores(x).tobytes() == model.scores(rows).tobytes()
    for kept, stored in zip(model.chain_.levels, chain.levels, strict=True):
        assert (stored.threshold, stored.epoch, stored.rule) == (kept.threshold, kept.epoch, kept.rule)
    assert save_chain(tmp_path / "third.pt", chain, meta) == digest
    assert (tmp_path / "chain.pt").read_bytes() == (tmp_path / "third.pt").read_bytes()


def test_proportion_one_survives_storage(tmp_path):
    model = fitted(preset="latent", epochs=0)
    save_chain(tmp_path / "chain.pt", model.chain_, {})
    chain, _ = load_chain(tmp_path / "chain.pt")
    assert chain.levels[0].threshold == -np.inf


def test_missing_or_damaged_chain_is_refused(tmp_path, deep):
    path = tmp_path / "chain.pt"
    with refused(r"chain\.pt is missing$", "train_dlsa", missing=True):
        load_chain(path)
    save_chain(path, deep.chain_, {})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with refused("damaged", "train_dlsa"):
        load_chain(path)
