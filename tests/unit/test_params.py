"""params.yaml as a whole: what is refused, how the message helps, and that the file of the repository is complete."""

import dataclasses

import pytest

from longtail.core.errors import ConfigError
from longtail.core.params import Group, bind, keys_of, type_of
from longtail.core.yaml import parse_yaml, read_yaml
from longtail.methods.dlsa.settings import PRESETS, DlsaParams, Settings, resolve
from longtail.methods.objectives.params import TrainParams
from longtail.params import TOP_LEVEL, Params, check_params, defaults, groups
from tests.imports import ROOT


def check(content: str) -> Params:
    return check_params(parse_yaml(content, "params.yaml"))


def refusal(content: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check(content)
    return str(caught.value)


def leaves(content: dict, prefix: str = "") -> dict[str, object]:
    """Every key by its full name, with its value. An empty group counts as a value."""
    found: dict[str, object] = {}
    for key, value in content.items():
        inner = isinstance(value, dict) and value
        found |= leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def nested(key: str, value: object) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]


LEAVES = [key for key, value in leaves(defaults()).items() if value != {}]


# imb_factor, which papers write in two ways


@pytest.mark.parametrize("given", ["0.01", "0", "-5", "abc", "1e9", ".nan", ".inf"])
def test_bad_imb_factor_is_refused_with_its_meaning(given):
    message = refusal(f"imb_factor: {given}")
    assert message.startswith("imb_factor must be ")
    assert "(imb_factor is n_max / n_min, the largest class over the smallest" in message


@pytest.mark.parametrize(("given", "meant"), [("0.01", "100"), ("0.02", "50"), ("1e-1", "10"), ("0.005", "200")])
def test_inverse_imb_factor_gets_the_likely_intention(given, meant):
    message = refusal(f"imb_factor: {given}")
    assert message.startswith(f"imb_factor must be at least 1 and at most 1e+06, got {float(given):g} ")
    assert message.endswith(f"mean imb_factor: {meant})")


@pytest.mark.parametrize(("given", "value"), [("1", 1.0), ("100", 100.0), ("1e2", 100.0), ("2.5", 2.5), ("1e6", 1e6)])
def test_good_imb_factor_becomes_a_float(given, value):
    bound = check(f"imb_factor: {given}").bound
    (factor,) = [group.imb_factor for group in bound.values() if hasattr(group, "imb_factor")]
    assert factor == value
    assert type(factor) is float


# Keys


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("imbfactor: 100", "imbfactor is not a key (did you mean imb_factor?)"),
        ("crt: {epoch: 5}", "crt.epoch is not a key (did you mean crt.epochs?)"),
        ("train: {weight-decay: 5}", "train.weight-decay is not a key (did you mean train.weight_decay?)"),
        ("lr: 0.1", "lr is not a key"),
        ("joint: {epochs: 1}", "joint.epochs is not a key"),
        ("1: 2", "1 is not a key"),
        ("null: 2", "null is not a key"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_or_all_allowed_ones(content, expected):
    message = refusal(content)
    assert message.startswith(f"{expected}; allowed here: ")


def test_unknown_key_without_a_near_one_gets_no_suggestion():
    message = refusal("crt: {qqq: 5}")
    assert "did you mean" not in message
    assert "epochs" in message


# Values: types, ranges, contradictions, and keys that are given without effect


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("crt: {epochs: true}", "crt.epochs must be a whole number, got true"),
        ("crt: {epochs: 2.5}", "crt.epochs must be a whole number, got 2.5"),
        ("crt: {epochs: ten}", "crt.epochs must be a whole number, got ten"),
        ("crt: {epochs: '10'}", "crt.epochs must be a whole number, got '10'"),
        ("crt: {epochs: null}", "crt.epochs must be a whole number, got null"),
        ("crt: {epochs: [10]}", "crt.epochs must be a whole number, got [10]"),
        ("crt: {lr: false}", "crt.lr must be a finite number or auto, got false"),
        ("crt: {lr: fast}", "crt.lr must be a finite number or auto, got fast"),
        ("crt: {lr: .nan}", "crt.lr must be a finite number or auto, got nan"),
        ("relabel: yes", "relabel must be true or false, got yes"),
        ("relabel: 1", "relabel must be true or false, got 1"),
        ("relabel: 'true'", "relabel must be true or false, got 'true'"),
        ("data_root: 5", "data_root must be text or null, got 5"),
        ("train: {width: half}", "train.width must be a whole number or auto, got half"),
        ("tau: {value: high}", "tau.value must be a finite number or auto, got high"),
        ("train: {milestones: 5}", "train.milestones must be a list of whole numbers or auto, got 5"),
        ("train: {milestones: [1.5]}", "train.milestones must be a list of whole numbers or auto, got [1.5]"),
        ("seed: 2024-01-01", "seed must be a whole number, got 2024-01-01"),
        (
            "dataset: mnist",
            "dataset must be one of cifar10, cifar100, digits, features, file_lists, image_folder, table, got mnist",
        ),
        (
            "pretrain: {method: byol}",
            "pretrain.method must be one of none, weights, bns, moco, rotation, simsiam, got byol",
        ),
        ("runtime: {progress: false}", "runtime.progress must be one of auto, bar, lines, off, got false"),
        ("seed: -1", "seed must be at least 0 and at most 9223372036854775807, got -1"),
        ("val_per_class: -1", "val_per_class must be at least 0, got -1"),
        ("image_size: 3", "image_size must be at least 4 and at most 4096, got 3"),
        ("train: {epochs: 0}", "train.epochs must be at least 1, got 0"),
        ("train: {lr: 0}", "train.lr must be above 0, got 0"),
        ("train: {lr: -0.1}", "train.lr must be above 0, got -0.1"),
        ("train: {momentum: 1.5}", "train.momentum must be at least 0 and at most 1, got 1.5"),
        ("train: {weight_decay: -1e-4}", "train.weight_decay must be at least 0, got -0.0001"),
        ("train: {width: 0}", "train.width must be at least 1, got 0"),
        ("tau: {value: -1}", "tau.value must be at least 0 and at most 10, got -1"),
        ("tau: {grid_step: 0}", "tau.grid_step must be above 0 and at most 10, got 0"),
        ("runtime: {threads: 0}", "runtime.threads must be at least 1 and at most 1024, got 0"),
        ("runtime: {device: tpu}", "runtime.device must be auto, cpu, cuda or cuda:N, got tpu"),
        ("train: {epochs: 4, warmup_epochs: 5}", "train.warmup_epochs must be at most train.epochs = 4, got 5"),
        (
            "train: {objective: ldam, head: linear}",
            "train.head must be cosine or auto with train.objective: ldam, got linear",
        ),
        (
            "train: {rule: resample, sampler: square_root}",
            "train.sampler must be instance with train.rule: resample, which draws itself, got square_root",
        ),
        ("train: {beta: 2}", "train.beta must be at least 0 and at most 1, got 2"),
        ("logit_adjustment: {adjustment: -1}", "logit_adjustment.adjustment must be at least 0 and at most 10, got -1"),
        (
            "pretrain: {epochs: 4, warmup_epochs: 5}",
            "pretrain.warmup_epochs must be at most pretrain.epochs = 4, got 5",
        ),
        ("pretrain: {jitter_strength: 3}", "pretrain.jitter_strength must be at least 0 and at most 2.5, got 3"),
        (
            "pretrain: {bns: {temperature: 0.1}}",
            "pretrain.bns.temperature must be at least 0.3 with variant: code, which takes exp(similarity / "
            "temperature) before the sigmoid, got 0.1",
        ),
        (
            "train: {objective: paco, rule: drw}",
            "train.rule must be none or resample with train.objective: paco, which weights the classes itself, got drw",
        ),
        (
            "train: {objective: fsgl, mix: mixup}",
            "train.mix must be none with train.objective: fsgl, which decides itself what to mix, got mixup",
        ),
        (
            "train: {objective: fsgl, head: cosine}",
            "train.head must be linear (or auto) with train.objective: fsgl, whose feature scaling a cosine "
            "head cannot see, got cosine",
        ),
        (
            "train: {rule: drw, drw_epoch: 60}",
            "train.drw_epoch must be below train.epochs = 60 with train.rule: drw, or the weights would never "
            "count, got 60",
        ),
        ("train: {paco: {momentum: 1}}", "train.paco.momentum must be at least 0 and below 1, got 1"),
        ("train: {paco: {gama: 1}}", "train.paco.gama is not a key (did you mean train.paco.gamma?)"),
        ("train: {fsgl: {rho: -1}}", "train.fsgl.rho must be at least 0, got -1"),
        ("train: {mix_alpha: 0}", "train.mix_alpha must be at least 0.001 and at most 100, got 0"),
        (
            "train: {second_augment: crop}",
            "train.second_augment must be auto, its default, since it has no effect with train.objective: ce, got crop",
        ),
        ("pretrain: {moco: {queue: 0}}", "pretrain.moco.queue must be at least 1, got 0"),
        ("pretrain: {milestones: [3, 2]}", "pretrain.milestones must be epochs in ascending order, got [3, 2]"),
        ("ipdpp: {milestones: [-1]}", "ipdpp.milestones must be epochs in ascending order, got [-1]"),
        (
            "train: {schedule: fsgl_imagenet, warmup_epochs: 3}",
            "train.warmup_epochs must be 0 or auto with train.schedule: fsgl_imagenet, which has its own "
            "warm-up, got 3",
        ),
        ("train: {per_class: 0}", "train.per_class must be at least 1, got 0"),
        ("train: {per_class: some}", "train.per_class must be a whole number or one of auto, all, got some"),
        ("ipdpp: {epochs: 4, warmup_epochs: 5}", "ipdpp.warmup_epochs must be at most ipdpp.epochs = 4, got 5"),
        ("ipdpp: {k: 0}", "ipdpp.k must be at least 1, got 0"),
        ("ipdpp: {k: many}", "ipdpp.k must be a whole number of images, or a multiple such as 10*n_min, got many"),
        (
            "ipdpp: {k: 0*n_min}",
            "ipdpp.k must be a whole number of images, or a multiple such as 10*n_min, got 0*n_min",
        ),
        ("ipdpp: {reselect_every: 0}", "ipdpp.reselect_every must be at least 1, got 0"),
        (
            "ipdpp: {sampler: uniform}",
            "ipdpp.sampler must be one of ipdpp, uniform_official, feature_kdpp, got uniform",
        ),
        (
            "shots: {many_above: 20, few_below: 22}",
            "shots.few_below must be at most shots.many_above + 1 = 21, so that no class is both many and few, got 22",
        ),
        ("dataset: image_folder", "data_root must be the folder of the images with dataset: image_folder, got null"),
        ("dataset: file_lists", "data_root must be the folder of the images with dataset: file_lists, got null"),
        (
            "dataset: file_lists\ndata_root: /x\nlists: {train: a}",
            "lists.test must be a list file with dataset: file_lists, got null",
        ),
        (
            "dataset: file_lists\ndata_root: /x\nlists: {test: a}",
            "lists.train must be a list file with dataset: file_lists, got null",
        ),
        (
            "dataset: table\ndata_root: /x",
            "table must be a file with dataset: table (or set lists.train and lists.test), got null",
        ),
        (
            "dataset: table\ndata_root: /x\ntable: a.csv\nlists: {val: b.csv}",
            "table must be null with lists.val, got a.csv",
        ),
        (
            "dataset: table\ndata_root: /x\nlists: {train: a.csv}",
            "lists.test must be a table file with dataset: table, got null",
        ),
        ("table: a.csv", "table must be null, its default, since it has no effect with dataset: digits, got a.csv"),
        (
            "columns: {path: image_id}",
            "columns.path must be path, its default, since it has no effect with dataset: digits, got image_id",
        ),
        (
            "dataset: table\ndata_root: /x\ntable: a.csv\ncolumns: {label: path}",
            "columns.label must be another column than columns.path, got path",
        ),
        (
            "columns: {lable: dx}",
            "columns.lable is not a key (did you mean columns.label?)",
        ),
        ("columns: {path: null}", "columns.path must be text, got null"),
        ("dlsa: {proportion: 1.5}", "dlsa.proportion must be above 0 and at most 1, got 1.5"),
        ("dlsa: {proportion: 0}", "dlsa.proportion must be above 0 and at most 1, got 0"),
        ("dlsa: {depth: -1}", "dlsa.depth must be at least 0 and at most 100, got -1"),
        ("dlsa: {depth: 1.5}", "dlsa.depth must be a whole number or auto, got 1.5"),
        ("dlsa: {z: foo}", "dlsa.z must be one of features, latent, none or auto, got foo"),
        ("dlsa: {routing: dense}", "dlsa.routing must be one of density, random or auto, got dense"),
        ("dlsa: {standardize: 1}", "dlsa.standardize must be true or false or auto, got 1"),
        ("dlsa: {clusters: many}", "dlsa.clusters must be a whole number or auto, got many"),
        ("dlsa: {flow_lr: 0}", "dlsa.flow_lr must be above 0, got 0"),
        ("dlsa: {flow_batch_size: 1}", "dlsa.flow_batch_size must be at least 2, got 1"),
        ("dlsa: {balance_momentum: 1}", "dlsa.balance_momentum must be at least 0 and below 1, got 1"),
        ("dlsa: {epochs: -1}", "dlsa.epochs must be at least 0, got -1"),
        ("dlsa: {lr: .nan}", "dlsa.lr must be a finite number or auto, got nan"),
        ("dlsa: {select_on: train}", "dlsa.select_on must be one of val, test, last or auto, got train"),
        ("dlsa: {level: 3}", "dlsa.level is not a key"),
        ("dlsa: {flow_epoch: 3}", "dlsa.flow_epoch is not a key (did you mean dlsa.flow_epochs?)"),
    ],
)
def test_bad_value_is_refused(content, expected):
    assert refusal(content).split("; allowed here")[0] == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "imb_type: natural\nimb_factor: 50\nval_per_class: 0",
            "imb_factor must be 100, its default, since it has no effect with imb_type: natural, got 50",
        ),
        (
            "train: {select: best_val}\nval_per_class: 0",
            "train.select must be last, got best_val: there are no validation images with val_per_class: 0",
        ),
        (
            "crt: {select: best_val}\nval_per_class: 0",
            "crt.select must be last, got best_val: there are no validation images with val_per_class: 0",
        ),
        (
            "lws: {select: best_val}\nval_per_class: 0",
            "lws.select must be last, got best_val: there are no validation images with val_per_class: 0",
        ),
        (
            "dlsa: {classifier: cosine, second_branch: zero}",
            "dlsa.second_branch must be random with dlsa.classifier: cosine, whose weights count by direction "
            "only, got zero",
        ),
        (
            "train: {backbone: resnet31}",
            "train.backbone must be one of resnet8, resnet20, resnet32, resnet44, resnet56, resnet110, "
            "resnet18, resnet34, resnet10, resnext152_32x4d, or the name of a timm model, got resnet31",
        ),
        (
            "train: {fsgl: {rho: 0.1}}",
            "train.fsgl.rho must be 0.05, its default, since it has no effect with train.objective: ce, got 0.1",
        ),
        (
            "pretrain: {bns: {temperature: 0.7}}",
            "pretrain.bns.temperature must be 0.5, its default, since it has no effect with pretrain.method: "
            "none, got 0.7",
        ),
        (
            "pretrain: {weights: a.pth}",
            "pretrain.weights must be auto, its default, since it has no effect with pretrain.method: none, got a.pth",
        ),
        (
            "pretrain: {method: moco, head: file}",
            "pretrain.head must be none, its default, since it has no effect with pretrain.method: moco, got file",
        ),
        (
            "pretrain: {method: weights, weights: a.pth, epochs: 7}",
            "pretrain.epochs must be 200, its default, since it has no effect with pretrain.method: weights, got 7",
        ),
        (
            "pretrain: {method: weights, weights: a.zip}",
            "pretrain.weights must be auto or a file that ends in .safetensors, .pt, .pth, .bin, .pth.tar, got a.zip",
        ),
        (
            "pretrain: {method: weights}",
            "pretrain.weights must be a file with train.backbone: resnet8, which timm does not publish, got auto",
        ),
        (
            "pretrain: {method: weights}\ntrain: {backbone: resnet18}",
            "pretrain.weights must be a file with train.backbone: resnet18, which timm does not publish, got auto "
            "(timm:resnet18 is timm's network)",
        ),
        (
            "crop: none",
            "crop must be auto, its default, since it has no effect with dataset: digits, whose images are in memory, "
            "got none",
        ),
        (
            "pretrain: {epochs: 7}",
            "pretrain.epochs must be 200, its default, since it has no effect with pretrain.method: none, got 7",
        ),
        (
            "train: {mix_alpha: 0.3}",
            "train.mix_alpha must be 1, its default, since it has no effect with train.mix: none, got 0.3",
        ),
        (
            "train: {beta: 0.99}",
            "train.beta must be 0.9999, its default, since it has no effect with train.rule: none, got 0.99",
        ),
        (
            "train: {augment: crop, jitter_strength: 0.3}",
            "train.jitter_strength must be 1, its default, since it has no effect with train.augment: crop, got 0.3",
        ),
        (
            "train: {drw_epoch: 5}",
            "train.drw_epoch must be auto, its default, since it has no effect with train.rule: none, got 5",
        ),
        (
            "train: {head: linear, scale: 8}",
            "train.scale must be 30, its default, since it has no effect with train.head: linear, got 8",
        ),
        (
            "lists: {train: a}",
            "lists.train must be null, its default, since it has no effect with dataset: digits, got a",
        ),
        ("data_root: /x", "data_root must be null, its default, since it has no effect with dataset: digits, got /x"),
        (
            "train: {samples_per_class: 3}",
            "train.samples_per_class must be 4, its default, since it has no effect with train.sampler: "
            "instance, got 3",
        ),
        ("train: {momentum: 0.5, optimizer: adam}", "train.optimizer must be one of sgd, adamw, got adam"),
        (
            "tau: {value: 1, grid_step: 0.5}",
            "tau.grid_step must be 0.1, its default, since it has no effect with tau.value: 1, got 0.5",
        ),
        ("runtime: {workers: -1}", "runtime.workers must be at least 0 and at most 1024, got -1"),
        (
            "train: {augment: croop}",
            "train.augment must be one of auto, autoaugment, crop, crop_flip, cutout, moco, moco_noflip, none, "
            "randaugment, resized_crop, resized_crop_jitter, sim, simclr, simclr_noflip, got croop (did you "
            "mean crop?)",
        ),
        (
            "ipdpp: {beta: 0.5}",
            "ipdpp.beta must be 0, its default, since it has no effect with ipdpp.sampler: ipdpp, got 0.5",
        ),
        (
            "train: {gamma: 0.5}",
            "train.gamma must be 0.01, its default, since it has no effect with train.schedule: cosine, got 0.5",
        ),
        (
            "dlsa: {depth: 0, flow_lr: 0.1}",
            "dlsa.flow_lr must be auto, its default, since it has no effect with dlsa.depth: 0, got 0.1",
        ),
        (
            "ipdpp: {sampler: feature_kdpp, epsilon: 0.1}",
            "ipdpp.epsilon must be 0.001, its default, since it has no effect with ipdpp.beta: 0, got 0.1",
        ),
    ],
)
def test_what_would_fail_late_or_be_ignored_is_refused(content, expected):
    assert refusal(content) == expected


@pytest.mark.parametrize("group", groups())
def test_group_given_as_a_scalar_is_refused(group):
    for given in ("5", "null", "[1]", "text"):
        assert refusal(f"{group}: {given}") == f"{group} must be a group of keys, got {given}"


@pytest.mark.parametrize("key", LEAVES)
def test_every_key_refuses_a_value_of_no_allowed_type(key):
    with pytest.raises(ConfigError, match=f"^{key} must be .*, got "):
        check_params(nested(key, {"a": 1}))
    takes_booleans = ("standardize", "warm_start", "drop_last")
    if not isinstance(leaves(defaults())[key], bool) and key.split(".")[-1] not in takes_booleans:
        with pytest.raises(ConfigError, match=f"^{key} must be .*, got true"):
            check_params(nested(key, True))


@pytest.mark.parametrize("content", ["split_seed: 4294967296", f"seed: {2**63}"])
def test_message_for_a_large_whole_number_shows_it_exactly(content):
    key, _, given = content.partition(": ")
    assert refusal(content) == f"{key} must be at least 0 and at most {int(given) - 1}, got {given}"


@pytest.mark.parametrize(
    "content",
    [
        "imb_factor: 1",
        "imb_type: natural",
        "imb_type: natural\nimb_factor: 100",
        "shots: {many_above: 20, few_below: 21}",
        "runtime: {device: 'cuda:1'}",
        "dataset: image_folder\ndata_root: /x",
        "dataset: file_lists\ndata_root: /x\nlists: {train: a, test: b}",
        "dataset: table\ndata_root: /x\nlists: {train: a.csv, test: b.csv}\ncolumns: {group: null}",
        "dataset: table\ndata_root: /x\ntable: a.csv\ncolumns: {path: image_id}\nrelabel: true",
        "train: {epochs: 4, warmup_epochs: 4}",
        "train: {milestones: [10, 20], schedule: step}",
        "pretrain: {method: bns, bns: {temperature: 0.1, variant: paper}}",
        "pretrain: {method: bns, bns: {temperature: 0.3}}",
        "pretrain: {method: weights, weights: '~/a b/$NAME.pth.tar', head: file}",
        "pretrain: {method: weights}\ntrain: {backbone: resnet50}",
        "dataset: image_folder\ndata_root: /x\ncrop: none",
        "train: {objective: paco, rule: resample}",
        "train: {objective: fsgl, head: cosine, fsgl: {gamma: 0}}",
        "train: {schedule: fsgl_imagenet, warmup_epochs: auto}",
        "train: {per_class: 1}",
        "ipdpp: {k: 3*n_min}",
        f"seed: {2**63 - 1}",
    ],
)
def test_limits_themselves_are_allowed(content):
    check(content)


def test_path_of_weights_may_have_a_home_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUN", "7")
    pretrain = check("pretrain: {method: weights, weights: '~/runs/$RUN/a.pth'}").bound["pretrain"]
    assert pretrain.file == tmp_path / "runs/7/a.pth"
    assert check("pretrain: {method: none}").bound["pretrain"].file is None


def test_whole_floats_become_integers_and_whole_numbers_floats():
    params = check("crt: {epochs: 2.0}\ntau: {value: 1}").bound
    assert type(params["crt"].epochs) is int
    assert type(params["tau"].value) is float


@pytest.mark.parametrize(
    ("content", "warmup"),
    [
        ({"epochs": 37, "warmup_epochs": "auto"}, 3),
        ({"epochs": 37, "warmup_epochs": 5}, 5),
        ({"epochs": 37, "warmup_epochs": "auto", "schedule": "fsgl_imagenet"}, 0),
    ],
)
def test_warm_up_is_a_tenth_unless_given_or_the_schedules_own(content, warmup):
    assert bind(TrainParams, content).warmup == warmup


def test_keys_left_out_keep_their_defaults():
    given, none = check("crt: {epochs: 20}").bound, check("{}").bound
    assert given["crt"] == dataclasses.replace(none["crt"], epochs=20)
    assert {name: group for name, group in given.items() if name != "crt"} == {
        name: group for name, group in none.items() if name != "crt"
    }


# DLSA, whose keys are `auto` unless they are given


DLSA_KEYS = [name for name in keys_of(DlsaParams) if name not in ("enabled", "preset")]


def test_unknown_preset_is_refused_with_all_there_are():
    for given in ("nonsense", "auto"):
        expected = f"dlsa.preset must be one of {', '.join(PRESETS)}, got {given}"
        assert refusal(f"dlsa: {{preset: {given}}}") == expected


def test_dlsa_keys_are_the_settings_of_the_library():
    assert {spec.name for spec in dataclasses.fields(Settings)} == set(DLSA_KEYS)


@pytest.mark.parametrize("key", DLSA_KEYS)
def test_dlsa_key_takes_auto_and_whatever_the_library_takes(key):
    """The value of every preset can be written down."""
    assert getattr(bind(DlsaParams, {key: "auto"}), key) == getattr(DlsaParams(), key) == "auto"
    for preset in PRESETS:
        value = getattr(resolve(preset, {}, rows=1000, width=64, num_classes=10, mean_square=5.0), key)
        found = getattr(bind(DlsaParams, {key: value}), key)
        assert found == value and type(found) is type(value)


# Declarations


def every_group() -> list[type[Group]]:
    return [*TOP_LEVEL, *groups().values()]


def test_every_key_has_one_line_of_meaning_and_a_default_of_its_type():
    for kind in every_group():
        default = kind()
        for name, spec in keys_of(kind).items():
            if isinstance(getattr(default, name), Group):
                continue
            assert spec.meaning and "\n" not in spec.meaning, (kind, name)
            assert type_of(kind, name) is not None


def test_a_group_checks_itself_wherever_it_is_made():
    with pytest.raises(ConfigError, match=r"train.epochs must be at least 1, got 0"):
        TrainParams(epochs=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainParams().epochs = 3  # type: ignore[misc]


# The repository's own params.yaml


def test_repository_params_list_every_key_with_its_default():
    content = read_yaml(ROOT / "params.yaml")
    check_params(content)
    assert leaves(content) == leaves(defaults())


def test_repository_params_are_read_by_dvc_as_by_us():
    from dvc.utils.serialize import load_yaml

    assert load_yaml(str(ROOT / "params.yaml")) == read_yaml(ROOT / "params.yaml")
