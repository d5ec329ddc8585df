"""Weights in: every format that people have loads into the same backbone, and misfits are named."""

import argparse
import re
import socket
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from longtail.core.head import LinearHead
from longtail.models.stored import save_backbone
from longtail.models.weights import input_config, load_file, load_published
from tests.unit.models.helpers import CLASSES, State, build, load, refusal, state_of


def head_of(width: int) -> State:
    generator = torch.Generator().manual_seed(2)
    return {
        "weight": torch.randn(CLASSES, width, generator=generator),
        "bias": torch.randn(CLASSES, generator=generator),
    }


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def torchvision_names(state: State) -> State:
    """Our names as LDAM-DRW, SSP, PaCo and torchvision have them."""
    found = {}
    for name, tensor in state.items():
        name = re.sub(r"^stages\.(\d)", lambda stage: f"layer{int(stage[1]) + 1}", name)
        found[name.replace("shortcut", "downsample")] = tensor
    return found


def noise(state: State) -> State:
    return {name: torch.full_like(tensor, 7) for name, tensor in state.items()}


def assert_same(found: State, expected: State) -> None:
    counters = [name for name in expected if name.endswith("num_batches_tracked")]
    assert found.keys() == expected.keys()
    assert [name for name in expected if name not in counters and not torch.equal(found[name], expected[name])] == []


# Formats. Each makes a file of the state of a backbone and of the classifier that belongs to it.


def plain(state: State, head: State) -> Any:
    return state


def with_classifier(state: State, head: State) -> Any:
    return state | prefixed("fc.", head)


def nested(*names: str) -> Callable[[State, State], Any]:
    def make(state: State, head: State) -> Any:
        content: Any = state | prefixed("head.", head)
        for name in names:
            content = {name: content, "epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(2)}}, "param_groups": []}}
        return content

    return make


def averaged(state: State, head: State) -> Any:
    return {"model": noise(state), "model_ema": state}


def best(state: State, head: State) -> Any:
    """Decoupling's release: the best epoch in two groups, beside the last one."""
    parts = {"feat_model": prefixed("module.", state), "classifier": prefixed("module.fc.", head)}
    last = {"feat_model": prefixed("module.", noise(state)), "classifier": prefixed("module.fc.", noise(head))}
    return {"state_dict_best": parts, "state_dict": last, "best_acc": np.float64(0.4), "centroids": None}


def groups(state: State, head: State) -> Any:
    return {"feat_model": state, "classifier": {"fc.weight": head["weight"], "fc.bias": head["bias"]}}


def wrapped(prefix: str) -> Callable[[State, State], Any]:
    return lambda state, head: {"state_dict": prefixed(prefix, state | prefixed("fc.", head))}


def released_cifar(state: State, head: State) -> Any:
    """LDAM-DRW and SSP: torchvision's names, data-parallel, without a parameter in the shortcut."""
    weights = prefixed("module.", torchvision_names(state) | prefixed("linear.", head))
    return {"epoch": 200, "arch": "resnet32", "state_dict": weights, "best_acc1": torch.tensor(42.0)}


def moco(state: State, head: State) -> Any:
    queries = torchvision_names(state) | {"fc.0.weight": torch.ones(4, 4), "fc.2.weight": torch.ones(2, 4)}
    content = prefixed("module.encoder_q.", queries) | prefixed("module.encoder_k.", noise(queries))
    content |= {"module.queue": torch.ones(2, 9), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"state_dict": content, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.03)}


def moco3(state: State, head: State) -> Any:
    base = torchvision_names(state) | {"fc.0.weight": torch.ones(4, 4)}
    content = prefixed("module.base_encoder.", base) | prefixed("module.momentum_encoder.", noise(base))
    return {"state_dict": content | {"module.predictor.0.weight": torch.ones(2, 2)}}


def simsiam(state: State, head: State) -> Any:
    encoder = torchvision_names(state) | {"fc.0.weight": torch.ones(4, 4), "fc.1.running_mean": torch.ones(4)}
    content = prefixed("module.encoder.", encoder) | {"module.predictor.0.weight": torch.ones(2, 2)}
    return {"epoch": 100, "arch": "resnet50", "state_dict": content, "optimizer": {"state": {}}}


def paco(state: State, head: State) -> Any:
    queries = torchvision_names(state) | {"fc.0.weight": torch.ones(4, 4)}
    content = prefixed("module.encoder_q.", queries) | prefixed("module.encoder_k.", noise(queries))
    content |= prefixed("module.linear.", head) | prefixed("module.linear_k.", noise(head))
    return {"state_dict": content | {"module.queue": torch.ones(9, 2), "module.queue_l": torch.zeros(9)}}


def beside(state: State, head: State) -> Any:
    return {
        "net": state,
        "acc": np.float32(0.5),
        "epoch": np.int64(7),
        "cls_num_list": np.arange(3),
        "type": np.dtype("f8"),
        "scheduler": {"last_epoch": 3},
        "scaler": {"scale": 2.0},
    }


def without_counters(state: State, head: State) -> Any:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def double(state: State, head: State) -> Any:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


FORMATS = {
    "plain": plain,
    "with a classifier": with_classifier,
    "state_dict": nested("state_dict"),
    "model": nested("model"),
    "model_ema": averaged,
    "twice nested": nested("model", "state_dict"),
    "state_dict_best": best,
    "feat_model": groups,
    "module.": wrapped("module."),
    "_orig_mod.": wrapped("_orig_mod."),
    "module._orig_mod.": wrapped("module._orig_mod."),
    "backbone.": wrapped("backbone."),
    "encoder.": wrapped("encoder."),
    "LDAM-DRW and SSP": released_cifar,
    "MoCo": moco,
    "MoCo v3": moco3,
    "SimSiam": simsiam,
    "PaCo": paco,
    "optimizer and NumPy beside": beside,
    "without counters": without_counters,
    "float64": double,
}
WITH_HEAD = ("with a classifier", "state_dict", "twice nested", "state_dict_best", "feat_model", "module.",
             "LDAM-DRW and SSP", "PaCo")  # fmt: skip


@pytest.mark.parametrize("backbone", ["resnet8", "resnet18", "test_resnet"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_fills_the_whole_backbone(tmp_path, name, backbone):
    """Our CIFAR ResNet, our ResNet with projections in its shortcuts, and one of timm."""
    options = {"width": 4} if backbone != "test_resnet" else {}
    state = state_of(backbone, **options)
    loaded, found = load(tmp_path, FORMATS[name](state, head_of(64)), backbone, **options)
    assert_same(found, state)
    assert loaded.report["initial"] == {"count": 0, "first": []}
    assert loaded.report["loaded"] >= len([key for key in state if not key.endswith("num_batches_tracked")])
    assert loaded.report["source"] == "given.pth" and loaded.head is None


@pytest.mark.parametrize("name", WITH_HEAD)
def test_classifier_of_a_file_is_the_head_if_its_shape_fits(tmp_path, name):
    state, head = state_of(), head_of(64)
    loaded, _ = load(tmp_path, FORMATS[name](state, head), head_shape=(CLASSES, 64))
    assert loaded.head is not None and loaded.head.kind == "linear"
    np.testing.assert_array_equal(loaded.head.weight, head["weight"])
    np.testing.assert_array_equal(loaded.head.bias, head["bias"])
    assert loaded.report["head"].endswith("weight") and loaded.report["head"] in loaded.lines()[-2]
    assert "classifier" not in loaded.report["left_out"]


def test_classifier_of_another_shape_or_of_no_file_is_refused_with_both_shapes(tmp_path):
    content = with_classifier(state_of(), head_of(64))
    message = refusal(lambda: load(tmp_path, content, head_shape=(7, 64)))
    assert all(word in message for word in ("pretrain.head must be none", "fc.weight", "(5, 64)", "(7, 64)"))
    message = refusal(lambda: load(tmp_path, state_of(), head_shape=(7, 64)))
    assert "no classifier" in message and "(7, 64)" in message
    message = refusal(lambda: load(tmp_path, moco(state_of(), head_of(64)), head_shape=(CLASSES, 64)))
    assert "no classifier" in message, "a projection is no classifier"


def test_normed_linear_layer_of_ldam_drw_is_a_cosine_head(tmp_path):
    weight = torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(0))
    loaded, _ = load(tmp_path, {"state_dict": torchvision_names(state_of()) | {"linear.weight": weight}},
                     head_shape=(CLASSES, 64))  # fmt: skip
    x = np.random.default_rng(0).normal(size=(4, 64))
    released = nn.functional.normalize(torch.from_numpy(x)) @ nn.functional.normalize(weight.double(), dim=0)
    assert loaded.head.kind == "cosine"
    np.testing.assert_allclose(loaded.head.scores(x), 30 * released.numpy(), rtol=1e-5)


def test_torchvision_and_timm_files_of_one_resnet_load_into_both(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(3)
    state = dict(resnet18(num_classes=CLASSES).state_dict())
    loaded, found = load(tmp_path, state, "timm:resnet18", head_shape=(CLASSES, 512))
    assert_same(found, {name: tensor for name, tensor in state.items() if not name.startswith("fc.")})
    np.testing.assert_array_equal(loaded.head.weight, state["fc.weight"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".pth.tar"])
def test_every_suffix_is_read(tmp_path, suffix):
    state = state_of()
    assert_same(load(tmp_path, state, suffix=suffix)[1], state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state_of().items()}
    head = {name: tensor.to(dtype) for name, tensor in head_of(64).items()}
    loaded, found = load(tmp_path, with_classifier(state, head), head_shape=(CLASSES, 64))
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}
    assert_same(
        found, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    )
    assert loaded.head.weight.dtype == np.float32


def test_kernels_for_colors_are_summed_up_for_grayscale_images(tmp_path):
    state = state_of()
    _, found = load(tmp_path, state, channels=1)
    torch.testing.assert_close(found["conv1.weight"], state["conv1.weight"].sum(dim=1, keepdim=True))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_position_embeddings_are_resized(tmp_path, prefix):
    """A file of timm's model at 160 pixels, for a network of 64: the embeddings are those that timm makes."""
    torch.manual_seed(4)
    theirs = timm.create_model("test_vit", num_classes=CLASSES)
    content = prefixed(prefix, theirs.state_dict())
    loaded, found = load(tmp_path, content, "test_vit", image_size=64, head_shape=(CLASSES, 64))
    assert found["pos_embed"].shape[1] < theirs.pos_embed.shape[1]
    overlay = {"state_dict": dict(theirs.state_dict()), "num_classes": CLASSES}
    resized = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=64)
    torch.testing.assert_close(found["pos_embed"], resized.pos_embed.detach())
    assert loaded.report["initial"]["count"] == 0 and loaded.report["left_out"] == {}
    np.testing.assert_array_equal(loaded.head.weight, theirs.head.weight.detach())


def test_names_that_timm_converts_are_converted(tmp_path, monkeypatch):
    """A file of other names, as the original authors of many models of timm have."""
    torch.manual_seed(4)
    theirs = timm.create_model("test_vit", num_classes=CLASSES)
    module = sys.modules[type(theirs).__module__]

    def convert(state: State, model: nn.Module) -> State:
        return {name.replace("trunk_", "").replace("classes.", "head."): tensor for name, tensor in state.items()}

    monkeypatch.setattr(module, "checkpoint_filter_fn", convert)
    content = {f"trunk_{name}".replace("trunk_head.", "head."): t for name, t in theirs.state_dict().items()}
    loaded, found = load(tmp_path, {"model": content | {"extra": torch.ones(2)}}, "test_vit", head_shape=(CLASSES, 64))
    assert_same(found, {name: t for name, t in theirs.state_dict().items() if not name.startswith("head.")})
    np.testing.assert_array_equal(loaded.head.weight, theirs.head.weight.detach())
    assert loaded.report["left_out"] == {"unknown": {"count": 1, "first": ["extra"]}}


def test_partial_load_says_what_is_missing_and_why_the_rest_was_left_out(tmp_path):
    state = {name: tensor for name, tensor in state_of().items() if not name.startswith("stages.2")}
    content = {
        "model": state
        | prefixed("fc.", head_of(64))
        | {"extra": torch.ones(2), "projector.0.weight": torch.ones(2, 2)},
        "optimizer": {"state": {}},
        "epoch": 3,
    }
    loaded, _ = load(tmp_path, content)
    report, text = loaded.report, "\n".join(loaded.lines())
    assert report["initial"]["count"] == 10 and report["initial"]["first"][0] == "stages.2.0.conv1.weight"
    assert "NOT in the file" in text and "stages.2.0.conv1.weight" in text
    assert {kind: found["count"] for kind, found in report["left_out"].items()} == {
        "classifier": 2,
        "optimizer": 1,
        "other value": 1,
        "projection": 1,
        "unknown": 1,
    }
    assert "left out, classifier: 2 (fc.weight, fc.bias)" in text
    assert "WARNING" not in text


def test_file_that_fills_less_than_half_of_the_backbone_draws_a_warning(tmp_path):
    state = state_of()
    needed = [name for name in state if not name.endswith("num_batches_tracked")]
    half = (len(needed) + 1) // 2
    for kept in (half, half - 1):
        loaded, _ = load(tmp_path, {name: state[name] for name in needed[:kept]})
        warning = f"WARNING: only {kept} of {len(needed)} tensors fit; is this file of another model?"
        assert ("WARNING" in "\n".join(loaded.lines())) == (kept < half), kept
        assert (warning in loaded.lines()[1]) == (kept < half)


def test_momentum_encoder_never_counts_and_is_reported(tmp_path):
    loaded, _ = load(tmp_path, moco(state_of(), head_of(64)))
    assert loaded.report["left_out"]["momentum encoder"]["count"] > 30
    assert loaded.report["left_out"]["projection"]["count"] == 2


def test_file_without_a_fitting_name_is_refused_with_names_and_shapes_of_both_sides(tmp_path):
    message = refusal(lambda: load(tmp_path, {"trunk_a.weight": torch.ones(3, 2), "b": torch.ones(1)}))
    assert all(word in message for word in ("pretrain.weights", "conv1.weight (16, 3, 3, 3)", "trunk_a.weight (3, 2)"))
    assert "no tensors" in refusal(lambda: load(tmp_path, {"epoch": 3}))


def test_wrong_shape_is_refused_with_names_and_shapes_of_both_sides_and_nothing_is_loaded(tmp_path):
    content = {"state_dict": prefixed("module.", torchvision_names(state_of(width=4)))}
    message = refusal(lambda: load(tmp_path, content))
    assert "conv1.weight (16, 3, 3, 3)" in message and "module.conv1.weight (4, 3, 3, 3)" in message
    backbone = build()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    refusal(lambda: load_file(backbone, tmp_path / "given.pth"))
    assert_same(dict(backbone.state_dict()), before)


# Origin


def test_origin_of_a_local_file_is_unknown_unless_its_metadata_names_it(tmp_path):
    loaded, _ = load(tmp_path, state_of(), suffix=".safetensors")
    assert loaded.report["license"] == loaded.report["trained_on"] == "unknown (given file given.safetensors)"
    metadata = {"license": "mit", "dataset": "ImageNet-1k"}
    save_file(state_of(), tmp_path / "named.safetensors", metadata)
    report = load_file(build(), tmp_path / "named.safetensors").report
    assert (report["license"], report["trained_on"]) == ("mit", "ImageNet-1k")
    assert len(report["sha256"]) == 64


def test_backbone_that_the_pipeline_wrote_is_a_weights_file_and_keeps_its_head_and_origin(tmp_path):
    head = LinearHead(np.random.default_rng(0).normal(size=(CLASSES, 64)).astype(np.float32), None, "cosine", 16.0)
    weights = {"license": "mit", "trained_on": "X"}
    meta = {"name": "resnet8", "width": None, "channels": 3, "weights": weights}
    backbone = build(seed=1)
    save_backbone(tmp_path / "backbone.safetensors", backbone, meta, head)
    other = build()
    loaded = load_file(other, tmp_path / "backbone.safetensors", (CLASSES, 64))
    assert_same(dict(other.state_dict()), dict(backbone.state_dict()))
    assert (loaded.head.kind, loaded.head.scale) == ("cosine", 16.0)
    np.testing.assert_array_equal(loaded.head.weight, head.weight)
    assert loaded.report["license"] == "mit" and loaded.report["trained_on"] == "X"


# What timm publishes


@pytest.fixture
def published(monkeypatch) -> State:
    """timm's file of test_vit, as the hub would give it."""
    torch.manual_seed(5)
    state = dict(timm.create_model("test_vit").state_dict())
    builder = timm.models._builder
    monkeypatch.setattr(builder, "load_state_dict_from_hf", lambda *words, **options: dict(state))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words: [])
    return state


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_published_weights_are_timms_with_their_origin(published):
    backbone = build("test_vit", image_size=160)
    loaded = load_published(backbone, name="test_vit", channels=3, image_size=160, head_shape=(1000, 64))
    assert_same(dict(backbone.state_dict()), {n: t for n, t in published.items() if not n.startswith("head.")})
    np.testing.assert_array_equal(loaded.head.weight, published["head.weight"])
    report = loaded.report
    assert (report["source"], report["license"]) == ("timm/test_vit.r160_in1k", "apache-2.0")
    assert report["trained_on"] == "ImageNet-1k (r160_in1k)"
    message = refusal(lambda: load_published(build("test_vit"), name="test_vit", channels=3, image_size=160,
                                             head_shape=(CLASSES, 64)))  # fmt: skip
    assert "(1000, 64)" in message and "(5, 64)" in message


# What the model expects of its images


def test_input_is_the_models_own_and_ours_have_none():
    found = input_config(build("test_vit"), 3, None)
    assert (found.image_size, found.interpolation, found.crop_pct) == (160, "bicubic", 0.95)
    assert found.mean == found.std == (0.5, 0.5, 0.5)
    assert input_config(build("test_vit", image_size=64), 1, 64).mean == (0.5,)
    assert input_config(build("timm:resnet18"), 3, 96).image_size == 96
    assert input_config(build("resnet8"), 3, 32) is None and input_config(build("resnet10"), 3, 32) is None


@pytest.mark.parametrize(
    ("config", "interpolation", "crop_pct"),
    [
        ({"crop_mode": "squash", "crop_pct": 0.9, "interpolation": "lanczos"}, "bicubic", None),
        ({"crop_mode": "center", "crop_pct": 0.9, "interpolation": "bilinear"}, "bilinear", 0.9),
        ({}, "bilinear", 1.0),
    ],
)
def test_crop_and_interpolation_of_a_configuration(config, interpolation, crop_pct):
    backbone = nn.Identity()
    backbone.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.1,) * 3, "std": (0.2,) * 3} | config  # type: ignore[assignment]
    found = input_config(backbone, 3, None)
    assert (found.interpolation, found.crop_pct, found.image_size) == (interpolation, crop_pct, 32)


def test_real_weights_of_imagenet_load_completely(shared_data):
    backbone = build("tf_efficientnet_lite0", image_size=96).eval()
    loaded = load_file(backbone, shared_data / "tf_efficientnet_lite0.safetensors", (1000, 1280))
    assert loaded.report["initial"]["count"] == 0 and loaded.report["left_out"] == {}
    found = input_config(backbone, 3, 96)
    assert (found.image_size, found.mean, found.interpolation, found.crop_pct) == (96, (0.5,) * 3, "bicubic", 0.875)
    assert loaded.head.weight.shape == (1000, 1280)


def test_scales_of_a_released_lws_head_multiply_weight_and_bias(tmp_path):
    head, scales = head_of(64), torch.linspace(0.5, 2, CLASSES)
    parts = {"feat_model": prefixed("module.", state_of())}
    parts["classifier"] = {"module.fc." + name: tensor for name, tensor in head.items()} | {"module.scales": scales}
    torch.save({"state_dict_best": parts}, tmp_path / "a.pth")
    loaded = load_file(build(), tmp_path / "a.pth", (CLASSES, 64))
    assert loaded.head is not None and loaded.head.bias is not None
    assert loaded.report["left_out"] == {}
    np.testing.assert_allclose(loaded.head.weight, (scales[:, None] * head["weight"]).numpy())
    np.testing.assert_allclose(loaded.head.bias, (scales * head["bias"]).numpy())
