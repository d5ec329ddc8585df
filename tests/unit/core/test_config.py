"""params.yaml: what is refused, how the message helps, and that the repository's own file lists every key."""

import dataclasses
import types
import typing
from pathlib import Path

import pytest

from longtail.core.config import TWO_VIEWS, Dlsa, HeadTraining, Params, bind, load_params, parse_yaml
from longtail.core.errors import ConfigError
from longtail.methods.dlsa.settings import PRESETS, Settings, resolve
from tests.imports import ROOT


@pytest.fixture
def load(tmp_path):
    def load(content: str | bytes) -> Params:
        path = tmp_path / "params.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_params(path)

    return load


def refusal(load, content) -> str:
    with pytest.raises(ConfigError) as caught:
        load(content)
    return str(caught.value)


def fields_of(kind: type, prefix: str = "") -> dict[str, object]:
    """Every key of a dataclass by its full name, groups descended into, with its type."""
    found = {}
    hints = typing.get_type_hints(kind)
    for spec in dataclasses.fields(kind):
        hint = hints[spec.name]
        if dataclasses.is_dataclass(hint):
            found |= fields_of(hint, f"{prefix}{spec.name}.") or {f"{prefix}{spec.name}": dict}
        else:
            found[f"{prefix}{spec.name}"] = hint
    return found


def keys_of(content: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in content.items():
        found |= keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}"}
    return found


def nested(key: str, value: object) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]


# imb_factor, the parameter that everybody writes differently


@pytest.mark.parametrize(
    ("given", "shown"),
    [("0.01", "0.01"), ("0", "0"), ("-5", "-5"), ("abc", "'abc'"), ("1e9", "1e+09"), (".nan", "nan"), (".inf", "inf")],
)
def test_bad_imb_factor_is_refused_with_key_given_and_meaning(load, given, shown):
    message = refusal(load, f"imb_factor: {given}")
    assert message.startswith(f"imb_factor: {shown} given, ")
    assert "expected" in message
    assert "n_max / n_min" in message


@pytest.mark.parametrize("given", ["0.01", "0", "-5", "1e9"])
def test_imb_factor_out_of_range_says_what_is_allowed(load, given):
    assert "at least 1 and at most 1e+06" in refusal(load, f"imb_factor: {given}")


@pytest.mark.parametrize(("given", "meant"), [("0.01", "100"), ("0.02", "50"), ("1e-1", "10"), ("0.005", "200")])
def test_inverse_imb_factor_gets_the_likely_intention(load, given, meant):
    assert refusal(load, f"imb_factor: {given}").endswith(f"mean imb_factor: {meant})")


@pytest.mark.parametrize(("given", "value"), [("1", 1.0), ("100", 100.0), ("1e2", 100.0), ("2.5", 2.5), ("1e6", 1e6)])
def test_good_imb_factor_becomes_a_float(load, given, value):
    factor = load(f"imb_factor: {given}").imb_factor
    assert factor == value
    assert type(factor) is float


# Keys


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("imbfactor: 100", "imbfactor: unknown key (did you mean imb_factor?)"),
        ("crt: {epoch: 5}", "crt.epoch: unknown key (did you mean crt.epochs?)"),
        ("train: {weight-decay: 5}", "train.weight-decay: unknown key (did you mean train.weight_decay?)"),
        ("lr: 0.1", "lr: unknown key"),
        ("joint: {epochs: 1}", "joint.epochs: unknown key; allowed here: nothing"),
        ("1: 2", "1: unknown key"),
        ("null: 2", "None: unknown key"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_or_all_allowed_ones(load, content, expected):
    message = refusal(load, content)
    assert message.startswith(expected)
    assert "allowed here: " in message


def test_unknown_key_without_a_near_one_gets_no_suggestion(load):
    message = refusal(load, "crt: {qqq: 5}")
    assert "did you mean" not in message
    assert "epochs" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [("seed: 1\nseed: 1", "seed: given twice (line 2)"), ("crt:\n  lr: 1\n  lr: 2", "lr: given twice (line 3)")],
)
def test_duplicate_key_is_refused_with_its_line(load, content, expected):
    assert expected in refusal(load, content)


@pytest.mark.parametrize("content", ["? [a]\n: 1", "? {a: 1}\n: 1"])
def test_key_that_is_a_collection_is_refused(load, content):
    refusal(load, content)


# Types


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("crt: {epochs: true}", "crt.epochs: True given, a whole number expected"),
        ("crt: {epochs: 2.5}", "crt.epochs: 2.5 given, a whole number expected"),
        ("crt: {epochs: ten}", "crt.epochs: 'ten' given, a whole number expected"),
        ("crt: {epochs: '10'}", "crt.epochs: '10' given, a whole number expected"),
        ("crt: {epochs: null}", "crt.epochs: None given, a whole number expected"),
        ("crt: {epochs: [10]}", "crt.epochs: [10] given, a whole number expected"),
        ("crt: {lr: false}", "crt.lr: False given, a finite number expected"),
        ("crt: {lr: fast}", "crt.lr: 'fast' given, a finite number expected"),
        ("crt: {lr: .nan}", "crt.lr: nan given, a finite number expected"),
        ("relabel: yes", "relabel: 'yes' given, true or false expected"),
        ("relabel: 1", "relabel: 1 given, true or false expected"),
        ("relabel: 'true'", "relabel: 'true' given, true or false expected"),
        ("data_root: 5", "data_root: 5 given, text or null expected"),
        ("train: {width: half}", "train.width: 'half' given, a whole number or auto expected"),
        ("tau: {value: high}", "tau.value: 'high' given, a finite number or auto expected"),
        ("train: {milestones: 5}", "train.milestones: 5 given, a list, each of it a whole number or auto expected"),
        ("train: {milestones: [1.5]}", "train.milestones: [1.5] given"),
        ("seed: 1_000", "seed: '1_000' given, a whole number expected"),
        ("seed: 0x10", "seed: '0x10' given, a whole number expected"),
        ("seed: 2024-01-01", "seed: datetime.date(2024, 1, 1) given"),
        ("dataset: mnist", "dataset: 'mnist' given, one of digits, cifar10, cifar100, image_folder, file_lists"),
        ("pretrain: {method: byol}", "pretrain.method: 'byol' given, one of none, bns, rotation, moco expected"),
        ("runtime: {progress: false}", "runtime.progress: False given, one of auto, bar, lines, off expected"),
    ],
)
def test_wrong_type_is_refused_with_key_given_and_allowed(load, content, expected):
    assert refusal(load, content).startswith(expected)


@pytest.mark.parametrize("group", [name for name, value in vars(Params()).items() if dataclasses.is_dataclass(value)])
def test_group_given_as_a_scalar_is_refused(load, group):
    for given in ("5", "null", "[1]", "text"):
        assert refusal(load, f"{group}: {given}").endswith("given, a group of keys expected")


@pytest.mark.parametrize(
    ("key", "hint"), [(key, hint) for key, hint in fields_of(Params).items() if hint is not dict], ids=lambda v: str(v)
)
def test_every_key_refuses_a_value_of_no_allowed_type(key, hint):
    with pytest.raises(ConfigError, match=f"^{key}: "):
        bind(Params, nested(key, {"a": 1}))
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if bool not in options:
        with pytest.raises(ConfigError, match=f"^{key}: True given, "):
            bind(Params, nested(key, True))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        ("5e-4", 5e-4),
        ("+2e-1", 0.2),
        (".5", 0.5),
        ("2.", 2.0),
        ("010", 10),
        ("-3", -3),
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("n", "n"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("1e", "1e"),
        ("1:30", "1:30"),
        ("0o7", "0o7"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    parsed = parse_yaml(f"key: {text}")["key"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_scientific_notation_is_a_number_and_off_is_text(load):
    params = load("train: {weight_decay: 1e-4}\nruntime: {progress: off}")
    assert params.train.weight_decay == 1e-4
    assert params.runtime.progress == "off"


def test_whole_floats_become_integers(load):
    epochs = load("crt: {epochs: 2.0}").crt.epochs
    assert epochs == 2
    assert type(epochs) is int


def test_whole_numbers_become_floats_where_a_float_is_asked(load):
    assert type(load("tau: {value: 1}").tau.value) is float


# Ranges and cross checks


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("seed: -1", "seed: -1 given, at least 0"),
        ("val_per_class: -1", "val_per_class: -1 given, at least 0 expected"),
        ("image_size: 3", "image_size: 3 given, at least 4 and at most 4096 expected"),
        ("train: {epochs: 0}", "train.epochs: 0 given, at least 1 expected"),
        ("train: {lr: 0}", "train.lr: 0 given, above 0 expected"),
        ("train: {lr: -0.1}", "train.lr: -0.1 given, above 0 expected"),
        ("train: {momentum: 1.5}", "train.momentum: 1.5 given, at least 0 and at most 1 expected"),
        ("train: {weight_decay: -1e-4}", "train.weight_decay: -0.0001 given, at least 0 expected"),
        ("train: {width: 0}", "train.width: 0 given, at least 1 expected"),
        ("tau: {value: -1}", "tau.value: -1 given, at least 0 and at most 10 expected"),
        ("tau: {grid_step: 0}", "tau.grid_step: 0 given, "),
        ("runtime: {threads: 0}", "runtime.threads: 0 given, at least 1"),
        ("runtime: {device: tpu}", "runtime.device: 'tpu' is not allowed; use auto, cpu, cuda or cuda:N"),
        ("train: {epochs: 4, warmup_epochs: 5}", "train.warmup_epochs: 5 is more than train.epochs: 4"),
        ("train: {objective: ldam, head: linear}", "train.head: linear given, cosine (or auto) expected"),
        ("train: {rule: resample, sampler: square_root}", "train.sampler: square_root given, instance expected"),
        ("train: {beta: 2}", "train.beta: 2 given, at least 0 and at most 1 expected"),
        ("logit_adjustment: {adjustment: -1}", "logit_adjustment.adjustment: -1 given, at least 0"),
        ("pretrain: {epochs: 4, warmup_epochs: 5}", "pretrain.warmup_epochs: 5 is more than pretrain.epochs: 4"),
        ("pretrain: {jitter_strength: 3}", "pretrain.jitter_strength: 3 given, at least 0 and at most 2.5 expected"),
        (
            "pretrain: {bns: {temperature: 0.1}}",
            "pretrain.bns.temperature: 0.1 given, at least 0.3 expected with variant: ",
        ),
        (
            "train: {objective: paco, rule: drw}",
            "train.rule: drw given, none or resample expected with train.obj",
        ),
        ("train: {objective: fsgl, mix: mixup}", "train.mix: mixup given, none expected with train.objective: fsgl"),
        (
            "train: {objective: fsgl, head: cosine}",
            "train.head: cosine given, linear (or auto) expected with train",
        ),
        (
            "train: {rule: drw, drw_epoch: 60}",
            "train.drw_epoch: 60 given, below train.epochs: 60 expected with train",
        ),
        ("train: {paco: {momentum: 1}}", "train.paco.momentum: 1 given, at least 0 and at most 0.999999 expected"),
        ("train: {paco: {gama: 1}}", "train.paco.gama: unknown key (did you mean train.paco.gamma?)"),
        ("train: {fsgl: {rho: -1}}", "train.fsgl.rho: -1 given, at least 0 expected"),
        ("train: {mix_alpha: 0}", "train.mix_alpha: 0 given, at least 0.001 and at most 100 expected"),
        ("train: {second_augment: crop}", "train.second_augment: crop given, auto expected with train.objective: ce, "),
        ("pretrain: {moco: {queue: 0}}", "pretrain.moco.queue: 0 given, at least 1 expected"),
        ("pretrain: {milestones: [3, 2]}", "pretrain.milestones: [3, 2] given, epochs in ascending order expected"),
        ("ipdpp: {milestones: [-1]}", "ipdpp.milestones: [-1] given, epochs in ascending order expected"),
        (
            "train: {schedule: fsgl_imagenet, warmup_epochs: 3}",
            "train.warmup_epochs: 3 given, 0 or auto expected with schedule: fsgl_imagenet, which has a warm-up",
        ),
        ("train: {per_class: 0}", "train.per_class: 0 given, at least 1 expected"),
        ("train: {per_class: some}", "train.per_class: 'some' given, a whole number or one of auto, all expected"),
        ("ipdpp: {epochs: 4, warmup_epochs: 5}", "ipdpp.warmup_epochs: 5 is more than ipdpp.epochs: 4"),
        ("ipdpp: {k: 0}", "ipdpp.k: 0 given, at least 1 expected"),
        ("ipdpp: {k: many}", "ipdpp.k: 'many' given, a whole number of images or a multiple like 10*n_min expected"),
        ("ipdpp: {k: 0*n_min}", "ipdpp.k: '0*n_min' given, a whole number of images or a multiple"),
        ("ipdpp: {reselect_every: 0}", "ipdpp.reselect_every: 0 given, at least 1 expected"),
        ("ipdpp: {sampler: uniform}", "ipdpp.sampler: 'uniform' given, one of ipdpp, uniform_official, feature_kdpp"),
        ("shots: {many_above: 20, few_below: 22}", "shots.few_below: 22 is above shots.many_above + 1 = 21"),
        ("dataset: image_folder", "data_root: not given"),
        ("dataset: file_lists", "data_root: not given"),
        ("dataset: file_lists\ndata_root: /x\nlists: {train: a}", "lists.train and lists.test: "),
        ("dataset: file_lists\ndata_root: /x\nlists: {test: a}", "lists.train and lists.test: "),
    ],
)
def test_value_out_of_range_or_contradiction_is_refused(load, content, expected):
    assert refusal(load, content).startswith(expected)


@pytest.mark.parametrize("content", ["split_seed: 4294967296", f"seed: {2**63}"])
def test_message_for_a_large_whole_number_shows_it_exactly(load, content):
    key, _, given = content.partition(": ")
    assert refusal(load, content).startswith(f"{key}: {given} given, at least 0 and at most {int(given) - 1} expected")


def test_milestones_must_be_epochs_in_ascending_order(load):
    assert load("train: {milestones: [10, 20]}").train.milestones == [10, 20]
    for bad in ("[-3, 5]", "[20, 10]"):
        assert refusal(load, f"train: {{milestones: {bad}}}").startswith("train.milestones: ")


@pytest.mark.parametrize(
    "content",
    [
        "imb_factor: 1",
        "shots: {many_above: 20, few_below: 21}",
        "runtime: {device: 'cuda:1'}",
        "dataset: image_folder\ndata_root: /x",
        "dataset: file_lists\ndata_root: /x\nlists: {train: a, test: b}",
        "train: {epochs: 4, warmup_epochs: 4}",
        "pretrain: {bns: {temperature: 0.1, variant: paper}}",
        "pretrain: {bns: {temperature: 0.3}}",
        "train: {objective: paco, rule: resample}",
        "train: {objective: fsgl, head: cosine, fsgl: {gamma: 0}}",
        "train: {schedule: fsgl_imagenet, warmup_epochs: auto}",
        "train: {per_class: 1}",
        "ipdpp: {k: 3*n_min}",
        f"seed: {2**63 - 1}",
    ],
)
def test_limits_themselves_are_allowed(load, content):
    load(content)


# DLSA, whose keys are `auto` unless they are given


DLSA_KEYS = [spec.name for spec in dataclasses.fields(Dlsa) if spec.name != "preset"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("proportion: 1.5", "dlsa.proportion: 1.5 given, above 0 and at most 1 expected"),
        ("proportion: 0", "dlsa.proportion: 0 given, above 0 and at most 1 expected"),
        ("depth: -1", "dlsa.depth: -1 given, at least 0 and at most 100 expected"),
        ("depth: 1.5", "dlsa.depth: 1.5 given, a whole number or auto expected"),
        ("z: foo", "dlsa.z: 'foo' given, one of features, latent, none or auto expected"),
        ("routing: dense", "dlsa.routing: 'dense' given, one of density, random or auto expected"),
        ("standardize: 1", "dlsa.standardize: 1 given, true or false or auto expected"),
        ("clusters: many", "dlsa.clusters: 'many' given, a whole number or auto expected"),
        ("flow_lr: 0", "dlsa.flow_lr: 0 given, above 0 expected"),
        ("flow_batch_size: 1", "dlsa.flow_batch_size: 1 given, at least 2 expected"),
        ("balance_momentum: 1", "dlsa.balance_momentum: 1 given, at least 0 and at most 0.999999 expected"),
        ("epochs: -1", "dlsa.epochs: -1 given, at least 0 expected"),
        ("lr: .nan", "dlsa.lr: nan given, a finite number or auto expected"),
        ("select_on: train", "dlsa.select_on: 'train' given, one of val, test, last or auto expected"),
        ("level: 3", "dlsa.level: unknown key"),
        ("flow_epoch: 3", "dlsa.flow_epoch: unknown key (did you mean dlsa.flow_epochs?)"),
    ],
)
def test_bad_dlsa_value_is_refused_with_key_given_and_allowed(load, content, expected):
    assert refusal(load, f"dlsa: {{{content}}}").startswith(expected)


def test_unknown_preset_is_refused_with_all_there_are(load):
    message = refusal(load, "dlsa: {preset: nonsense}")
    assert message == f"dlsa.preset: 'nonsense' given, one of {', '.join(PRESETS)} expected"


def test_presets_are_those_of_the_library():
    assert typing.get_args(typing.get_type_hints(Dlsa)["preset"]) == PRESETS
    for preset in PRESETS:
        assert bind(Params, {"dlsa": {"preset": preset}}).dlsa.preset == preset


def test_dlsa_keys_are_the_settings_of_the_library():
    assert {spec.name for spec in dataclasses.fields(Settings)} == set(DLSA_KEYS)


@pytest.mark.parametrize("key", DLSA_KEYS)
def test_dlsa_key_takes_auto_and_whatever_the_library_takes(key):
    """The value of every published preset and of the small one can be written down."""
    assert getattr(bind(Params, {"dlsa": {key: "auto"}}).dlsa, key) == "auto"
    assert getattr(Dlsa(), key) == "auto"
    for preset in PRESETS:
        value = getattr(resolve(preset, {}, rows=1000, width=64, num_classes=10, mean_square=5.0), key)
        found = getattr(bind(Params, {"dlsa": {key: value}}).dlsa, key)
        assert found == value and type(found) is type(value)


@pytest.mark.parametrize("key", DLSA_KEYS)
def test_dlsa_choices_and_types_are_those_of_the_library(key):
    ours, theirs = typing.get_type_hints(Dlsa)[key], typing.get_type_hints(Settings)[key]
    without_auto = [option for option in typing.get_args(ours) if typing.get_args(option) != ("auto",)]
    if typing.get_origin(theirs) is typing.Literal:
        allowed = {value for option in typing.get_args(ours) for value in typing.get_args(option)}
        assert allowed == {*typing.get_args(theirs), "auto"}
    else:
        assert without_auto == [theirs]


def test_preset_is_never_auto(load):
    assert refusal(load, "dlsa: {preset: auto}").startswith("dlsa.preset: 'auto' given, one of small, latent, ")


# The file


def test_missing_file_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"params\.yaml is missing: run from the top of the repository"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "content",
    ["", "- a", "text", "a: [", "seed: 1\n---\nseed: 2", "seed: !!python/object/apply:os.getpid []", b"dataset: \xff"],
)
def test_file_that_is_no_mapping_or_no_yaml_is_refused_by_name(load, content):
    assert "params.yaml" in refusal(load, content)


def test_keys_left_out_keep_their_defaults(load):
    params = load("crt: {epochs: 20}")
    assert params == dataclasses.replace(Params(), crt=HeadTraining(epochs=20))
    assert Params().lws.epochs == 5


def test_parameters_cannot_be_changed_after_loading():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Params().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "warmup"),
    [
        ("{epochs: 37, warmup_epochs: auto}", 3),
        ("{epochs: 37, warmup_epochs: 5}", 5),
        ("{epochs: 37, warmup_epochs: auto, schedule: fsgl_imagenet}", 0),
    ],
)
def test_warm_up_is_a_tenth_unless_given_or_the_schedules_own(load, content, warmup):
    assert load(f"train: {content}").train.warmup == warmup


def test_objectives_of_two_views_are_those_that_the_registry_says():
    from longtail.methods.objectives.registry import OBJECTIVES

    assert {name for name, kind in OBJECTIVES.items() if kind.views > 1} == set(TWO_VIEWS)


# The repository's own params.yaml


def test_repository_params_are_accepted():
    load_params(ROOT / "params.yaml")


def test_repository_params_list_every_key_so_that_each_can_be_set():
    content = parse_yaml((ROOT / "params.yaml").read_text())
    assert keys_of(content) == set(fields_of(Params))


def test_repository_params_hold_only_plain_values_for_dvc():
    """DVC reads the file with its own YAML library; a value that it takes differently would be tracked wrongly."""
    from ruamel.yaml import YAML

    path = ROOT / "params.yaml"
    assert YAML(typ="safe").load(Path(path)) == parse_yaml(path.read_text())


def test_defaults_in_code_are_those_of_params_yaml():
    """A key that someone deletes from params.yaml keeps its value."""
    assert bind(Params, {}) == load_params(ROOT / "params.yaml")
