"""Recipes: every one is valid, named, and lies over params.yaml without losing anything else of it."""

import copy
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from longtail.core.errors import ConfigError
from longtail.core.yaml import parse_yaml, read_yaml
from longtail.models.factory import create_backbone
from longtail.models.trainable import set_trainable
from longtail.params import check_params
from stages import recipe
from tests.imports import ROOT


@pytest.fixture
def params(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path / "params.yaml"


def values(path: Path) -> dict:
    return dict(recipe.flat(parse_yaml(path.read_text())))


@cache
def laid_over_defaults(name: str) -> dict[str, Any]:
    return recipe.with_defaults(recipe.read_recipe(name)["params"])


@pytest.mark.parametrize("name", recipe.names())
def test_recipe_applies_says_what_it_changes_and_changes_nothing_else(params, name):
    before = values(params)
    lines = recipe.apply(name, params)
    check_params(read_yaml(params))
    after, wanted = values(params), dict(recipe.flat(recipe.read_recipe(name)["params"]))
    assert lines and {line.split(":")[0] for line in lines} == {key for key in after if after[key] != before[key]}
    assert {key: after[key] for key in wanted} == wanted
    assert {key: after[key] for key in before if key not in wanted} == {
        key: before[key] for key in before if key not in wanted
    }
    assert after.keys() == before.keys()
    assert recipe.apply(name, params) == [], "once is enough"


@pytest.mark.parametrize("name", recipe.names())
def test_recipe_names_its_source_and_the_number_that_it_aims_at(name):
    content = recipe.read_recipe(name)
    assert re.search(r"\b20[12]\d\b", content["source"])
    assert any(character.isdigit() for character in content["aim"]) and ":" in content["aim"]


@pytest.mark.parametrize("name", recipe.names())
def test_nothing_of_another_recipe_is_left(name):
    """Each after each; one that names no dataset sets its groups alone."""
    shipped = parse_yaml((ROOT / "params.yaml").read_text())
    changes = recipe.read_recipe(name)["params"]
    alone = copy.deepcopy(shipped)
    recipe.overlay(alone, laid_over_defaults(name))
    for other in recipe.names():
        both = copy.deepcopy(shipped) | {"seed": 7}
        both["runtime"]["workers"] = 1
        recipe.overlay(both, laid_over_defaults(other))
        recipe.overlay(both, laid_over_defaults(name))
        compared = set(alone) - {"seed", "runtime"} if "dataset" in changes else set(changes)
        assert {key: both[key] for key in compared} == {key: alone[key] for key in compared}, other
        assert (both["seed"], both["runtime"]["workers"]) == (7, 1)


# What Kang et al. 2020 and Cui et al. 2021 published, with the keys on which the recipes of one paper differ.
PLACES = {
    "lists.train": "Places_LT_train.txt",
    "lists.val": "Places_LT_val.txt",
    "lists.test": "Places_LT_test.txt",
    "normalize": "imagenet",
    "train.backbone": "resnet152.tv_in1k",
    "pretrain.method": "weights",
    "pretrain.weights": "auto",
    "train.trainable": "last_stage",
    "train.bn_mode": "train",
}
INATURALIST = {
    "lists.train": "iNaturalist18_train.txt",
    "lists.val": None,
    "lists.test": "iNaturalist18_val.txt",
    "normalize": "inaturalist",
    "val_per_class": 0,
    "train.backbone": "resnet50",
    "pretrain.method": "none",
    "train.trainable": "all",
}
PACO = {
    "train.paco.temperature": 0.2,
    "train.paco.alpha": 0.05,
    "train.paco.queue": 8192,
    "train.paco.dim": 128,
    "train.lr": 0.02,
    "train.batch_size": 128,
    "train.second_augment": "sim",
}
PUBLISHED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "imagenet_lt_decoupling_resnet10": (
        {"train.backbone": "resnet10", "train.epochs": 90, "train.batch_size": 512, "train.lr": 0.2},
        ["joint 34.8", "ncm 35.5", "crt 41.8", "tau 40.6", "lws 41.4"],
    ),
    "places_lt_decoupling": (
        PLACES
        | {"train.epochs": 30, "train.augment": "resized_crop_jitter", "tau.value": "auto", "tau.select_on": "val"}
        | {f"{head}.batch_size": 256 for head in ("train", "crt", "lws")}
        | {f"{head}.lr": 0.1 for head in ("train", "crt", "lws")}
        | {f"{head}.weight_decay": 5e-4 for head in ("train", "crt", "lws")}
        | {"crt.epochs": 10, "lws.epochs": 5},
        ["joint 30.2", "ncm 36.4", "crt 36.7", "tau 37.9", "lws 37.6"],
    ),
    "places_lt_paco": (
        PLACES
        | PACO
        | {"train.epochs": 30, "train.warmup_epochs": 5, "train.weight_decay": 5e-4, "train.augment": "sim"},
        ["joint: 41.2"],
    ),
    "inaturalist18_decoupling": (
        INATURALIST
        | {"train.epochs": 90, "train.augment": "resized_crop", "tau.value": 0.3146}
        | {f"{head}.batch_size": 512 for head in ("train", "crt", "lws")}
        | {f"{head}.lr": 0.2 for head in ("train", "crt", "lws")}
        | {f"{head}.weight_decay": 1e-4 for head in ("train", "crt", "lws")}
        | {"crt.epochs": 30, "lws.epochs": 5},
        ["joint 61.7", "ncm 58.2", "crt 65.2", "tau 65.6", "lws 65.9"],
    ),
    "inaturalist18_paco": (
        INATURALIST
        | PACO
        | {"train.epochs": 400, "train.warmup_epochs": 10, "train.weight_decay": 1e-4, "train.augment": "randaugment"},
        ["joint: 73.2"],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_has_the_published_settings_and_aims_at_the_published_numbers(name):
    settings, numbers = PUBLISHED[name]
    after = dict(recipe.flat(laid_over_defaults(name)))
    assert {key: after[key] for key in settings} == settings
    assert (after["imb_type"], after["shots.many_above"], after["shots.few_below"]) == ("natural", 100, 20)
    for head in ("crt", "lws") if "decoupling" in name else ():
        assert [after[f"{head}.{key}"] for key in ("mode", "bn_mode", "samples_per_class")] == ["online", "train", 4]
    for number in numbers:
        assert number in recipe.read_recipe(name)["aim"]


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ("imagenet_lt_paco", "imagenet_lt_dlsa_paco"),
        ("places_lt_paco", "places_lt_dlsa_paco"),
        ("places_lt_decoupling", "places_lt_dlsa_ce"),
        ("inaturalist18_paco", "inaturalist18_dlsa_paco"),
    ],
)
def test_recipe_of_dlsa_goes_over_the_one_of_its_features(features, name):
    both = copy.deepcopy(laid_over_defaults(features))
    recipe.overlay(both, laid_over_defaults(name))
    check_params(both)
    before = dict(recipe.flat(laid_over_defaults(features)))
    assert dict(recipe.flat(both)) == before | {"dlsa.preset": name.replace("_dlsa", "")}
    assert f"recipe {features} " in recipe.read_recipe(name)["aim"]


def test_places_starts_from_torchvision_weights_and_trains_the_last_stage():
    with torch.device("meta"):
        backbone = create_backbone(PLACES["train.backbone"], in_channels=3, image_size=224)
    set_trainable(backbone, PLACES["train.trainable"])
    trained = {name.split(".")[0] for name, weight in backbone.named_parameters() if weight.requires_grad}
    assert trained == {"layer4"}
    origin = timm.get_pretrained_cfg(PLACES["train.backbone"])
    assert origin is not None and "pytorch/vision" in origin.origin_url
    assert (origin.mean, origin.std, origin.crop_pct) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875)


def test_recipe_on_edited_params_gives_the_published_setting_and_keeps_seed_and_runtime(params):
    text = params.read_text().replace("val_per_class: 10 ", "val_per_class: 25 ").replace("seed: 0\n", "seed: 5\n")
    params.write_text(text.replace("per_class: auto  ", "per_class: 30  ").replace("threads: 1", "threads: 4"))
    assert values(params)["train.per_class"] == 30
    lines = recipe.apply("cifar100_lt_fsgl", params)
    after = values(params)
    assert (after["train.per_class"], after["val_per_class"]) == ("auto", 0)
    assert (after["seed"], after["runtime.threads"]) == (5, 4)
    assert "train.per_class: 30 -> auto" in lines


def test_comments_and_order_of_params_survive(params):
    comments = [line.partition("#")[2] for line in params.read_text().splitlines() if "#" in line]
    keys = list(values(params))
    recipe.apply("cifar100_lt_ldam_drw", params)
    assert [line.partition("#")[2] for line in params.read_text().splitlines() if "#" in line] == comments
    assert list(values(params)) == keys


def test_params_that_a_recipe_does_not_change_keep_their_bytes(params):
    before = params.read_text().splitlines()
    lines = recipe.apply("imagenet_lt_dlsa_paco", params)
    changed = [(old, new) for old, new in zip(before, params.read_text().splitlines(), strict=True) if old != new]
    assert lines == ["dlsa.preset: small -> imagenet_lt_paco"]
    assert len(changed) == 1 and "preset: imagenet_lt_paco" in changed[0][1]


def test_show_changes_nothing(params, capsys):
    before = params.read_bytes()
    recipe.main(["cifar10_lt_bns_ipdpp", "--show"])
    assert params.read_bytes() == before
    output = capsys.readouterr().out
    assert "ipdpp 76.4" in output and "pretrain.method: none -> bns" in output


def test_list_names_every_recipe_with_its_aim(params, capsys):
    recipe.main([])
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == recipe.names()


def test_unknown_recipe_is_refused_with_the_known_ones(params):
    with pytest.raises(ConfigError, match=r"recipe must be one of cifar100_lt50_fsgl, .*, got magic"):
        recipe.apply("magic", params)


def test_recipe_with_an_unknown_key_is_refused_and_params_stay(params, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "RECIPES", tmp_path / "recipes")
    (tmp_path / "recipes").mkdir()
    before = params.read_bytes()
    for content, message in (
        (
            "source: x\naim: y\nparams: {train: {epoch: 3}}",
            r"train\.epoch is not a key \(did you mean train\.epochs\?\)",
        ),
        ("source: x\naim: y\nparams: {imb_factor: 0.01}", r"imb_factor must be at least 1 .*, got 0\.01"),
        ("source: x\nparams: {}", "must have the keys aim, params, source, got params, source"),
    ):
        (tmp_path / "recipes/bad.yaml").write_text(content)
        with pytest.raises(ConfigError, match=message):
            recipe.apply("bad", params)
        assert params.read_bytes() == before


@pytest.mark.parametrize("content", ["train: {", "- a list", "train: {epoch: 3}"])
def test_damaged_params_end_in_one_sentence_and_stay(params, content):
    params.write_text(content)
    with pytest.raises(ConfigError, match=r"params\.yaml|train\.epoch is not a key"):
        recipe.apply("cifar100_lt_ce", params)
    assert params.read_text() == content


def test_missing_params_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"params\.yaml is missing"):
        recipe.apply("cifar100_lt_ce", Path("params.yaml"))
