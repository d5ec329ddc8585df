"""The settings of DLSA and its presets."""

import re
from dataclasses import asdict, fields

import numpy as np
import pytest

from longtail.core.errors import ConfigError
from longtail.core.params import show
from longtail.methods.dlsa import DLSA, PRESETS, Settings
from longtail.methods.dlsa.settings import resolve, starts_from_given
from tests.unit.methods.dlsa.helpers import FAST, TEST, X, Y, fitted

TABLE = {  # section 7 of the specification: the official configurations
    #                        depth flow_B epochs lh   bal  pur  classifier loss sampler    lr  warm
    "imagenet_lt_paco": (3, 1024, 50, 2, 1, 0.02, "linear", "bsm", "shuffle", 1e-4, True),
    "imagenet_lt_paco_cbs": (3, 1024, 50, 2, 1, 0.02, "linear", "ce", "class_aware", 1e-4, True),
    "imagenet_lt_paco_m2m": (3, 1024, 50, 2, 1, 0.02, "linear", "bsm", "shuffle", 1e-4, True),
    "imagenet_lt_paco_cos": (1, 1024, 50, 2, 1, 0.02, "cosine", "ce", "shuffle", 1e-4, True),
    "imagenet_lt_ce": (1, 1024, 50, 2, 1, 0.02, "linear", "bsm", "shuffle", 1e-2, False),
    "imagenet_lt_cbs": (1, 1024, 50, 2, 1, 0.02, "linear", "bsm", "shuffle", 1e-2, False),
    "places_lt_paco": (1, 512, 60, 1, 2, 0.03, "linear", "bsm", "shuffle", 1e-4, True),
    "places_lt_ce": (1, 512, 60, 1, 2, 0.03, "linear", "bsm", "shuffle", 1e-2, False),
    "places_lt_ce_cos": (1, 512, 60, 1, 2, 0.03, "cosine", "ce", "shuffle", 1e-2, False),
    "inaturalist18_paco": (3, 1024, 30, 1, 1, 0.02, "linear", "bsm", "shuffle", 1e-4, True),
}
COLUMNS = (
    "depth",
    "flow_batch_size",
    "flow_epochs",
    "likelihood_weight",
    "balance_weight",
    "purity_weight",
    "classifier",
    "loss",
    "sampler",
    "lr",
    "warm_start",
)
COMMON = {
    "blocks": 2,
    "hidden_layers": 1,
    "clusters": 500,
    "center_std": 0.05,
    "q": 2.0,
    "proportion": 0.3,
    "balance_momentum": 0.7,
    "flow_lr": 0.2,
    "batch_size": 128,
    "epochs": 150,
    "eval_every": 5,
    "z": "features",
    "second_branch": "random",
    "loss_counts": "stage",
    "cluster_prior": "frequency",
    "flow_select": "purity",
    "log_scale_limit": 0.0,
    "standardize": False,
    "flow_dims": "all",
    "start": "given",
    "heads": "separate",
    "routing": "density",
}
SIZE = {"rows": 2634, "width": 64, "num_classes": 20, "mean_square": 200.0}


def test_every_published_configuration_stands_in_the_table():
    assert set(PRESETS) == {"small", "latent", *TABLE}


@pytest.mark.parametrize("preset", TABLE)
def test_published_preset_is_that_of_the_table_whatever_the_data(preset):
    for size in (SIZE, {"rows": 115_846, "width": 2048, "num_classes": 1000, "mean_square": 1.0}):
        settings = asdict(resolve(preset, {}, **size))
        assert {name: settings[name] for name in COLUMNS} == dict(zip(COLUMNS, TABLE[preset], strict=True))
        assert {name: settings[name] for name in COMMON} == COMMON


def test_small_follows_the_size_of_the_data():
    settings = resolve("small", {}, **SIZE)
    assert settings.clusters == 20
    assert settings.center_std == pytest.approx(0.05 * np.sqrt(32))
    assert settings.flow_batch_size == 2634 // 8
    assert settings.likelihood_weight == pytest.approx(2 * 32 * 20 / 1000)
    assert settings.q == 1.0
    assert settings.lr == pytest.approx(0.25 / 64)
    assert (settings.warm_start, settings.start, settings.second_branch) == (True, "base", "zero")
    assert (settings.epochs, settings.eval_every) == (50, 1)
    assert (settings.standardize, settings.log_scale_limit, settings.flow_select) == (True, 5.0, "held_out")


@pytest.mark.parametrize(
    ("size", "name", "value"),
    [
        ({"rows": 200, "num_classes": 50}, "clusters", 10),  # at least 20 rows each
        ({"rows": 30}, "clusters", 2),
        ({"rows": 10**6}, "flow_batch_size", 1024),
        ({"rows": 9}, "flow_batch_size", 2),
        ({"width": 256}, "flow_dims", "all"),
        ({"width": 257}, "flow_dims", 128),
        ({"width": 256}, "center_std", 0.05 * 8**0.5),
        ({"width": 2048}, "center_std", 0.2),  # of a flow with 128 inputs
        ({"width": 2048, "num_classes": 1000}, "likelihood_weight", 32.0),
        ({"width": 2048}, "lr", 0.25 / 2048),
        ({"unit_input": True, "mean_square": 1.0}, "lr", 0.25),
    ],
)
def test_small_has_the_worked_values(size, name, value):
    assert getattr(resolve("small", {}, **SIZE | size), name) == pytest.approx(value)


def test_small_follows_what_is_given():
    whole = resolve("small", {"flow_dims": "all"}, **SIZE | {"width": 2048, "num_classes": 1000})
    assert (whole.center_std, whole.likelihood_weight) == pytest.approx((0.05, 2.0))
    narrow = resolve("small", {"flow_dims": 32}, **SIZE)
    assert (narrow.center_std, narrow.likelihood_weight) == pytest.approx((0.4, 2.0 * 64 * 20 / 1000))
    raw = resolve("small", {"standardize": False}, **SIZE)
    assert raw.lr == pytest.approx(0.25 / 200)
    assert resolve("small", {"standardize": False}, **SIZE | {"mean_square": 1e-9}).lr == 10.0


@pytest.mark.parametrize("given", [{"start": "given"}, {"warm_start": False}], ids=str)
def test_heads_are_trained_gently_only_from_the_base_head(given):
    settings = resolve("small", given, **SIZE)
    assert (settings.lr, settings.epochs, settings.eval_every) == (pytest.approx(4 / 64), 150, 5)
    assert resolve("small", given | {"lr": 0.5, "epochs": 7}, **SIZE).epochs == 7


def test_stage_1_head_is_the_start_of_published_presets_and_where_asked_for():
    for preset in PRESETS:
        assert starts_from_given(preset, "auto") is (preset in TABLE)
        assert (starts_from_given(preset, "given"), starts_from_given(preset, "base")) == (True, False)


def test_latent_is_small_without_routing():
    small, latent = (asdict(resolve(preset, {}, **SIZE)) for preset in ("small", "latent"))
    changed = {name: latent[name] for name in small if latent[name] != small[name]}
    assert changed == {"proportion": 1.0, "heads": "shared", "z": "latent", "cluster_prior": "balanced"}


@pytest.mark.parametrize("preset", PRESETS)
def test_explicit_value_wins_over_the_preset(preset):
    given = {"depth": 2, "lr": 0.5, "warm_start": False, "select_on": "last", "clusters": 7, "q": 0.0, "z": "none"}
    settings = resolve(preset, {"epochs": "auto"} | given, **SIZE)
    assert {name: getattr(settings, name) for name in given} == given
    assert settings.epochs == 150
    assert fitted(preset="small", clusters=7, q=0.0, epochs=0).settings_.clusters == 7


@pytest.mark.parametrize("name", [spec.name for spec in fields(Settings)])
def test_auto_leaves_every_setting_to_the_preset(name):
    assert resolve("small", {name: "auto"}, **SIZE) == resolve("small", {}, **SIZE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("preset", value) for value in ("official", "auto", None)],
        *[("depth", value) for value in (-1, 1.5, "deep", True, None, np.nan)],
        *[("proportion", value) for value in (0, 1.1, -0.3, "a third")],
        *[("flow_lr", value) for value in (0, -1, np.inf, np.nan)],
        *[("lr", value) for value in (0.0, "high")],
        *[("clusters", value) for value in (0, 2.5)],
        *[("flow_batch_size", value) for value in (0, 1)],  # one row has no variance
        *[(name, 0) for name in ("batch_size", "blocks", "patience", "eval_every", "flow_epochs", "center_std")],
        *[(name, -1) for name in ("q", "hidden_layers", "epochs", "log_scale_limit")],
        *[(f"{name}_weight", -0.5) for name in ("likelihood", "balance", "purity")],
        *[("balance_momentum", value) for value in (1.0, -0.1, None)],
        *[("standardize", value) for value in (1, "yes")],
        *[("flow_dims", value) for value in (1, 2.5, "some", None)],
        *[("warm_start", value) for value in (0, None)],
        *[
            (name, "other")
            for name in (
                "routing",
                "flow_select",
                "heads",
                "classifier",
                "loss",
                "sampler",
                "loss_counts",
                "cluster_prior",
                "z",
                "start",
                "second_branch",
                "select_on",
            )
        ],
    ],
)
def test_value_that_is_not_allowed_is_refused_by_its_name(name, value):
    with pytest.raises(ConfigError, match=rf"^dlsa\.{name} must be .*, got {re.escape(show(value))}$"):
        DLSA(**FAST | {name: value}).fit(X, Y)


@pytest.mark.parametrize("number", [2.0, np.int64(2)], ids=["float", "int64"])
def test_whole_numbers_of_any_type_count_as_such(number):
    settings = resolve("small", {"depth": number, "clusters": number}, **SIZE)
    assert (settings.depth, settings.clusters) == (2, 2)
    assert fitted(depth=number, epochs=0).depth_ == 2


def test_cosine_classifier_has_no_silent_branch():
    """Cosine weights count by direction alone, and zero has none."""
    settings = resolve("small", {"classifier": "cosine"}, **SIZE)
    assert settings.second_branch == "random"
    with pytest.raises(
        ConfigError, match=r"dlsa\.second_branch must be random with dlsa\.classifier: cosine, .* got zero$"
    ):
        resolve("small", {"classifier": "cosine", "second_branch": "zero"}, **SIZE)
    model = fitted(classifier="cosine", loss="ce")
    assert np.abs(model.scores(TEST[0])).max() <= 32
