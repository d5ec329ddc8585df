"""All of params.yaml: every key of every group has its limits, and keys that contradict or do nothing are refused."""

import importlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from longtail.augment.policies import POLICIES
from longtail.core.errors import ConfigError
from longtail.core.params import Group, Key, keys_of, type_of
from longtail.data.sources import SOURCES
from longtail.methods.heads import HEADS
from longtail.methods.implementation import own_groups
from longtail.methods.objectives import OBJECTIVES
from longtail.methods.pretraining import METHODS as PRETRAINING
from longtail.methods.stage_methods import STAGE_METHODS
from longtail.params import EXTENDED, TOP_LEVEL, Params, check_params, defaults, groups
from tests.conftest import merged
from tests.imports import ROOT
from tests.unit.test_params import nested


def kinds() -> list[type[Group]]:
    """Every group that is declared anywhere, nested ones and those of objectives and pretraining methods too."""
    own = [registry.get(name).params for registry in EXTENDED.values() for name in own_groups(registry)]
    top = [*TOP_LEVEL, *groups().values(), *own]
    inner = [type(value) for kind in top for value in vars(kind()).values() if isinstance(value, Group)]
    return [*top, *inner]


def declared() -> dict[str, tuple[type[Group], Key]]:
    """Group and declaration of every key, by its full name."""
    found = {}
    for kind in kinds():
        default = kind()
        for name, spec in keys_of(kind).items():
            if not isinstance(getattr(default, name), Group):
                found[default.full_name(name)] = kind, spec
    return found


KEYS = declared()


def hint_of(key: str) -> Any:
    return type_of(KEYS[key][0], key.split(".")[-1])


def default_of(key: str) -> Any:
    return getattr(KEYS[key][0](), key.split(".")[-1])


def refusal(*contents: dict[str, Any]) -> str:
    content: dict[str, Any] = {}
    for part in contents:
        content = merged(content, part)
    with pytest.raises(ConfigError) as caught:
        check_params(content)
    return str(caught.value)


def test_the_declared_keys_are_all_keys_of_the_file():
    def flat(content: dict, prefix: str = "") -> list[str]:
        return [
            key
            for name, value in content.items()
            for key in (flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"])
        ]

    assert sorted(KEYS) == sorted(flat(defaults()))


# Limits of every key


def outside(spec: Key) -> list[float]:
    """Numbers just outside the range."""
    limits = [(spec.low, -1), (spec.high, 1), (spec.above, 0), (spec.below, 0)]
    return [limit + step for limit, step in limits if limit is not None]


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, (_, spec) in KEYS.items() for value in outside(spec)])
def test_every_key_refuses_a_number_outside_its_range(key, value):
    message = refusal(nested(key, value))
    assert message.startswith(f"{key} must be ")
    assert f", got {value:g}" in message or f", got {value}" in message


@pytest.mark.parametrize(
    "key", [key for key, (kind, _) in KEYS.items() if "str" not in str(type_of(kind, key.split(".")[-1]))]
)
def test_every_key_of_numbers_switches_or_names_refuses_other_text(key):
    assert refusal(nested(key, "no such thing")).startswith(f"{key} must be ")


@pytest.mark.parametrize("key", [key for key, (_, spec) in KEYS.items() if spec.choices])
def test_every_key_with_registered_names_refuses_others_and_lists_them(key):
    spec = KEYS[key][1]
    message = refusal(nested(key, "no such thing"))
    assert message == f"{key} must be one of {', '.join(spec.choices())}, got 'no such thing'"


@pytest.mark.parametrize("key", [key for key in KEYS if hint_of(key) is int])
def test_every_whole_number_refuses_fractions_nan_and_infinity(key):
    for value in (1.5, float("nan"), float("inf")):
        assert refusal(nested(key, value)).startswith(f"{key} must be a whole number, got ")


@pytest.mark.parametrize("key", [key for key in KEYS if hint_of(key) is float])
def test_every_number_refuses_nan_and_infinity(key):
    for value in (float("nan"), float("inf"), float("-inf")):
        assert refusal(nested(key, value)).startswith(f"{key} must be a finite number, got ")


@pytest.mark.parametrize("key", KEYS)
def test_every_default_can_be_written_down_even_where_it_has_no_effect(key):
    """Under each of these files some keys have no effect. Their defaults are never refused."""
    for content in ({}, *INEFFECTIVE_CONTEXTS):
        if key not in set(leaves(content)):
            check_params(merged(content, nested(key, default_of(key))))


def leaves(content: dict, prefix: str = "") -> list[str]:
    return [
        key
        for name, value in content.items()
        for key in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"])
    ]


INEFFECTIVE_CONTEXTS: list[dict[str, Any]] = [
    {
        "imb_type": "natural",
        "train": {"objective": "paco", "optimizer": "adamw", "augment": "crop", "second_augment": "crop"},
        "pretrain": {"method": "rotation", "augment": "none"},
        "tau": {"value": 1.0},
        "ipdpp": {"sampler": "uniform_official", "freeze": "encoder"},
    },
    {
        "dataset": "cifar10",
        "train": {"objective": "fsgl", "fsgl": {"gamma": 0, "rho": 0}, "schedule": "step"},
        "pretrain": {"method": "bns", "bns": {"variant": "code"}, "optimizer": "sgd"},
        "crt": {"mode": "cached"},
        "ipdpp": {"sampler": "feature_kdpp"},
    },
]


# Keys that contradict each other


SELECTING = ["train", "crt", "lws", "cosine", "los", "max_norm", "ipdpp"]
FILES = {"data_root": "/x", "imb_type": "natural"}
LISTS = {"dataset": "file_lists", "lists": {"train": "a", "test": "b"}, **FILES}


@pytest.mark.parametrize("group", [name for name, kind in groups().items() if "select" in keys_of(kind)])
@pytest.mark.parametrize("data", [{}, {"dataset": "cifar10"}, {"dataset": "cifar100"}, LISTS], ids=str)
def test_selection_on_val_is_refused_where_there_is_no_val(group, data):
    wanted = {group: {"select": "best_val"}}
    assert refusal({"val_per_class": 0}, data, wanted).startswith(f"{group}.select must be last, got best_val: ")
    check_params(merged(data, wanted))


def test_every_training_that_can_select_on_val_was_tried():
    assert {name for name, kind in groups().items() if "select" in keys_of(kind)} == set(SELECTING)


@pytest.mark.parametrize("group", SELECTING)
def test_selection_on_val_is_allowed_where_the_source_has_val_or_may_have_it(group):
    wanted = {group: {"select": "best_val"}}
    check_params(merged(merged(LISTS, {"lists": {"val": "c"}}), wanted))
    check_params({"dataset": "image_folder", "val_per_class": 0, **FILES} | wanted)


def test_val_per_class_is_refused_where_the_lists_hold_val():
    message = refusal(LISTS, {"lists": {"val": "c"}, "val_per_class": 5})
    assert message == (
        "val_per_class must be 10, its default, since it has no effect with dataset: file_lists, which has a val part "
        "of its own, got 5"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"backbone": "resnet9"},
            "train.backbone must be one of .*, or the name of a timm model, got resnet9",
        ),
        ({"backbone": "timm:nothing"}, "train.backbone must be one of .*, got 'timm:nothing'"),
        ({"backbone": "resnet50", "width": 32}, "train.width must be auto with train.backbone: resnet50, .*, got 32"),
        ({"backbone": "timm:resnet18", "width": 8}, "train.width must be auto with train.backbone: timm:resnet18, .*"),
    ],
)
def test_backbone_that_cannot_be_built_is_refused(content, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        check_params({"train": content})


@pytest.mark.parametrize("name", ["resnet50", "timm:resnet18", "resnext152_32x4d", "vit_tiny_patch16_224", "resnet110"])
def test_every_kind_of_backbone_is_known_by_name(name):
    check_params({"train": {"backbone": name}})


@pytest.mark.parametrize(
    "dlsa",
    [
        {"classifier": "cosine", "second_branch": "zero"},
        {"preset": "places_lt_ce_cos", "second_branch": "zero"},
        {"preset": "imagenet_lt_paco_cos", "second_branch": "zero", "classifier": "cosine"},
    ],
)
def test_cosine_branches_that_start_at_zero_are_refused(dlsa):
    expected = "dlsa.second_branch must be random with dlsa.classifier: cosine, whose weights count by direction only"
    assert refusal({"dlsa": dlsa}) == f"{expected}, got zero"


@pytest.mark.parametrize(
    "dlsa",
    [
        {"classifier": "cosine"},
        {"classifier": "cosine", "second_branch": "random"},
        {"second_branch": "zero"},
        {"preset": "places_lt_ce_cos", "second_branch": "zero", "classifier": "linear"},
    ],
)
def test_other_branches_are_allowed(dlsa):
    check_params({"dlsa": dlsa})


# Keys that are given and would be ignored


@pytest.mark.parametrize(
    ("content", "key", "reason"),
    [
        ({"imb_type": "natural", "imb_factor": 50}, "imb_factor", "imb_type: natural"),
        ({"data_root": "/x"}, "data_root", "dataset: digits"),
        ({"relabel": True}, "relabel", "dataset: digits"),
        ({"dataset": "cifar10", "relabel": True}, "relabel", "dataset: cifar10"),
        ({"dataset": "cifar10", "resize": "pad"}, "resize", "dataset: cifar10"),
        ({"sixteen_bit": "window"}, "sixteen_bit", "dataset: digits"),
        ({"bad_images": "skip"}, "bad_images", "dataset: digits"),
        ({"dataset": "cifar10", "lists": {"val": "a"}}, "lists.val", "dataset: cifar10"),
        ({"train": {"second_augment": "sim"}}, "train.second_augment", "train.objective: ce"),
        ({"train": {"optimizer": "adamw", "momentum": 0.5}}, "train.momentum", "train.optimizer: adamw"),
        ({"ipdpp": {"momentum": 0.5}}, "ipdpp.momentum", "ipdpp.optimizer: adamw"),
        ({"train": {"milestones": [3]}}, "train.milestones", "train.schedule: cosine"),
        ({"train": {"gamma": 0.1}}, "train.gamma", "train.schedule: cosine"),
        ({"ipdpp": {"gamma": 0.1}}, "ipdpp.gamma", "ipdpp.schedule: cosine_per_step"),
        ({"train": {"drw_epoch": 3, "rule": "reweight"}}, "train.drw_epoch", "train.rule: reweight"),
        ({"train": {"beta": 0.9}}, "train.beta", "train.rule: none"),
        ({"train": {"mix_alpha": 0.4}}, "train.mix_alpha", "train.mix: none"),
        ({"train": {"scale": 8}}, "train.scale", "train.head: auto"),
        ({"train": {"samples_per_class": 2}}, "train.samples_per_class", "train.sampler: instance"),
        ({"train": {"augment": "crop", "jitter_strength": 2}}, "train.jitter_strength", "train.augment: crop"),
        ({"train": {"fsgl": {"rho": 0.1}}}, "train.fsgl.rho", "train.objective: ce"),
        ({"train": {"objective": "paco", "focal": {"gamma": 2}}}, "train.focal.gamma", "train.objective: paco"),
        (
            {"train": {"objective": "fsgl", "fsgl": {"gamma": 0, "fsm_order": "index"}}},
            "train.fsgl.fsm_order",
            "train.fsgl.gamma: 0",
        ),
        (
            {"train": {"objective": "fsgl", "fsgl": {"rho": 0, "freeze_bn_second": True}}},
            "train.fsgl.freeze_bn_second",
            "train.fsgl.rho: 0",
        ),
        ({"pretrain": {"epochs": 5}}, "pretrain.epochs", "pretrain.method: none"),
        ({"pretrain": {"lr": 0.5}}, "pretrain.lr", "pretrain.method: none"),
        ({"pretrain": {"bns": {"negatives": 5}}}, "pretrain.bns.negatives", "pretrain.method: none"),
        (
            {"pretrain": {"method": "moco", "bns": {"temperature": 1}}},
            "pretrain.bns.temperature",
            "pretrain.method: moco",
        ),
        (
            {"pretrain": {"method": "bns", "bns": {"negatives": 5}}},
            "pretrain.bns.negatives",
            "pretrain.bns.variant: code",
        ),
        (
            {"pretrain": {"method": "bns", "bns": {"extra_positives": 5}}},
            "pretrain.bns.extra_positives",
            "pretrain.bns.variant: code",
        ),
        ({"crt": {"bn_mode": "train"}}, "crt.bn_mode", "crt.mode: cached"),
        ({"dlsa": {"loss": "ce", "loss_counts": "all"}}, "dlsa.loss_counts", "dlsa.loss: ce"),
        ({"dlsa": {"flow_select": "last", "patience": 3}}, "dlsa.patience", "dlsa.flow_select: last"),
        (
            {"dlsa": {"balance_weight": 0, "balance_momentum": 0.5}},
            "dlsa.balance_momentum",
            "dlsa.balance_weight: 0",
        ),
        ({"lws": {"bn_mode": "train"}}, "lws.bn_mode", "lws.mode: cached"),
        ({"tau": {"value": 1, "grid_max": 3}}, "tau.grid_max", "tau.value: 1"),
        ({"tau": {"value": 1, "grid_step": 0.5}}, "tau.grid_step", "tau.value: 1"),
        ({"tau": {"value": 1, "select_on": "test"}}, "tau.select_on", "tau.value: 1"),
        ({"ipdpp": {"beta": 1}}, "ipdpp.beta", "ipdpp.sampler: ipdpp"),
        ({"ipdpp": {"ridge": 1}}, "ipdpp.ridge", "ipdpp.sampler: ipdpp"),
        ({"ipdpp": {"epsilon": 1}}, "ipdpp.epsilon", "ipdpp.sampler: ipdpp"),
        ({"ipdpp": {"scale": "n2", "sampler": "feature_kdpp"}}, "ipdpp.scale", "ipdpp.sampler: feature_kdpp"),
        ({"ipdpp": {"freeze": "encoder", "bn_mode": "eval"}}, "ipdpp.bn_mode", "ipdpp.freeze: encoder"),
        ({"ipdpp": {"freeze": "encoder", "augment": "crop"}}, "ipdpp.augment", "ipdpp.freeze: encoder"),
        ({"ipdpp": {"freeze": "encoder", "jitter_strength": 2}}, "ipdpp.jitter_strength", "ipdpp.freeze: encoder"),
    ],
)
def test_key_that_is_given_without_effect_is_refused_and_its_default_is_not(content, key, reason):
    assert refusal(content).startswith(f"{key} must be ")
    assert f", its default, since it has no effect with {reason}, got " in refusal(content)
    check_params(merged(content, nested(key, default_of(key))))


@pytest.mark.parametrize(
    "content",
    [
        {"imb_type": "step", "imb_factor": 50},
        {"dataset": "cifar10", "data_root": "/x"},
        {"train": {"objective": "paco", "second_augment": "simclr", "jitter_strength": 2}},
        {"train": {"rule": "resample", "beta": 0.9}},
        {"train": {"objective": "class_balanced", "beta": 0.9}},
        {"train": {"objective": "ldam", "scale": 8}},
        {"train": {"head": "cosine", "scale": 8}},
        {"train": {"jitter_strength": 2}},
        {"train": {"augment": "sim", "jitter_strength": 2}},
        {"train": {"objective": "fsgl", "fsgl": {"fsm_order": "index", "freeze_bn_second": True}}},
        {"pretrain": {"method": "bns", "epochs": 5, "bns": {"variant": "paper", "negatives": 5}}},
        {"crt": {"mode": "online", "bn_mode": "train"}},
        {"tau": {"grid_max": 3, "select_on": "test"}},
        {"dlsa": {"loss_counts": "all", "patience": 3, "balance_momentum": 0.5}},
        {"dlsa": {"loss": "bsm", "loss_counts": "all", "flow_select": "held_out", "patience": 3}},
        {"ipdpp": {"sampler": "feature_kdpp", "beta": 1, "ridge": 1, "epsilon": 1}},
        {"ipdpp": {"optimizer": "sgd", "momentum": 0.5, "schedule": "step", "gamma": 0.1, "milestones": [3]}},
    ],
)
def test_the_same_keys_are_allowed_where_they_have_an_effect(content):
    check_params(content)


# Values of NumPy, which a program may give


def test_numpy_values_are_taken_as_pythons():
    params = check_params(
        {"seed": np.int64(3), "imb_factor": np.float32(50), "relabel": np.bool_(False), "crt": {"epochs": np.int8(4)}}
    )
    assert type(params.bound["crt"].epochs) is int  # type: ignore[attr-defined]
    assert repr(params) == repr(check_params({"seed": 3, "imb_factor": 50.0, "crt": {"epochs": 4}}))


def test_numpy_boolean_is_refused_as_a_number():
    assert refusal({"seed": np.bool_(True)}) == "seed must be a whole number, got true"


# Where groups are declared


@pytest.mark.parametrize(
    ("registry", "path"),
    [(HEADS, "{name}"), (STAGE_METHODS, "{name}"), (OBJECTIVES, "train.{name}"), (PRETRAINING, "pretrain.{name}")],
    ids=["heads", "stage methods", "objectives", "pretraining"],
)
def test_group_of_every_registered_method_has_its_place_in_the_file(registry, path):
    for name, entry in registry.entries().items():
        if entry.params is not None:
            assert issubclass(entry.params, Group)
            assert entry.params.path == entry.params().path == path.format(name=name)


@pytest.mark.parametrize("registry", [OBJECTIVES, PRETRAINING], ids=["objectives", "pretraining"])
def test_implementation_of_every_entry_is_there(registry):
    for entry in registry.entries().values():
        assert callable(entry.load())
        assert entry.load() is getattr(importlib.import_module(entry.module), entry.implementation.partition(":")[2])


def test_every_chosen_method_names_the_modules_that_it_needs():
    train, pretrain = groups()["train"], groups()["pretrain"]
    for name in OBJECTIVES.available():
        assert {OBJECTIVES.module(name), OBJECTIVES.get(name).module} <= set(train(objective=name).modules())
    for name in PRETRAINING.available():
        assert {PRETRAINING.module(name), PRETRAINING.get(name).module} <= set(pretrain(method=name).modules())
    assert pretrain(method="none").modules() == ()
    policies = {POLICIES.module(name) for name in ("crop", "sim")}
    assert policies <= set(train(objective="paco", augment="crop", second_augment="sim").modules())
    for name in SOURCES.available():
        content = {"dataset": name, "data_root": "/x" if SOURCES.get(name).needs_data_root else None}
        lists = {"lists": {"train": "a", "test": "b"}} if name in ("file_lists", "table") else {}
        dataset = check_params(content | lists).bound[TOP_LEVEL[0]]
        assert dataset.modules() == (SOURCES.module(name),)


def test_groups_are_in_the_order_of_the_file():
    from longtail.core.yaml import read_yaml

    content = read_yaml(ROOT / "params.yaml")
    in_file = [name for name in content if name in groups()]
    assert in_file[:2] == ["similar", "shots"] and in_file[-1] == "runtime"
    assert set(in_file) == set(groups())


def test_result_holds_every_group_and_the_chosen_methods_own_parameters():
    params = check_params({"train": {"objective": "focal", "focal": {"gamma": 2}}, "pretrain": {"method": "rotation"}})
    assert isinstance(params, Params)
    assert set(params.bound) == {*TOP_LEVEL, *groups()}
    assert params.own["train"] == OBJECTIVES.get("focal").params(gamma=2)
    assert params.own["pretrain"] is None


def test_checking_a_file_imports_no_torch():
    code = (
        "import sys; from pathlib import Path; from longtail.core.yaml import read_yaml; "
        "from longtail.params import check_params; content = read_yaml(Path('params.yaml')); check_params(content); "
        "content['train'] |= {'objective': 'fsgl', 'backbone': 'resnet50'}; content['pretrain']['method'] = 'moco'; "
        "check_params(content); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
