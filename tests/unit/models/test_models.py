"""Backbones and heads: the published sizes, shapes and initial weights, and what a checkpoint must fit."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from longtail.artifacts.checkpoints import load_checkpoint, save_checkpoint
from longtail.core.errors import ArtifactError, ConfigError
from longtail.core.head import LinearHead
from longtail.core.params import show
from longtail.models.classifier import Classifier, CosineLayer, LinearLayer, ScaledLayer, build_layer, create_head
from longtail.models.factory import BACKBONES, check_backbone, create_backbone
from longtail.models.names import OWN_NAMES, TIMM_BUILT, is_known_backbone
from longtail.models.resnet import CifarResNet, count_macs, count_parameters
from longtail.models.stored import load_backbone, save_backbone
from tests.refusals import refused

CIFAR_WITH_HEAD = {"resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018, "resnet110": 1_727_962}
BLOCKS = {"resnet8": 1, "resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
OTHERS = ("resnet26t", "mobilenetv3_small_050")  # of timm; the second has a layer behind its pool
TRUNKS = {
    "resnet10": (4_905_792, 12),
    "resnet50": (23_508_032, 53),
    "resnet101": (42_500_160, 104),
    "resnet152": (58_143_808, 155),
    "resnext50_32x4d": (22_979_904, 53),
    "resnext101_32x4d": (42_128_704, 104),
    "resnext152_32x4d": (57_902_400, 155),  # by hand: that of 101 layers, 4 blocks of 256 and 13 of 512 channels more
}


def build(name: str, channels: int = 3, width: int | None = None, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_backbone(name, in_channels=channels, width=width)


def on_meta(name: str, channels: int = 3) -> nn.Module:
    with torch.device("meta"):
        return create_backbone(name, in_channels=channels)


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


def images(n: int = 2, channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


# Sizes


@pytest.mark.parametrize("name", CIFAR_WITH_HEAD)
def test_cifar_resnets_have_the_published_parameters(name):
    backbone = on_meta(name)
    assert backbone.num_features == 64
    assert count_parameters(backbone) + 64 * 10 + 10 == CIFAR_WITH_HEAD[name]
    assert count_parameters(backbone) + count_parameters(CosineLayer(64, 10, 30.0)) == CIFAR_WITH_HEAD[name] - 10


@pytest.mark.parametrize("name", BLOCKS)
def test_cifar_resnets_have_6n_plus_2_layers(name):
    backbone = on_meta(name)
    convolutions = [part for part in backbone.modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 6 * BLOCKS[name] + 1 == int(name.removeprefix("resnet")) - 1
    assert len(norms(backbone)) == len(convolutions)


@pytest.mark.parametrize(
    ("name", "parameters", "classes", "with_head"),
    [("resnet18", 11_168_832, 10, 11_173_962), ("resnet34", 21_276_992, 100, 21_328_292)],
)
def test_stem_resnets_have_the_published_parameters(name, parameters, classes, with_head):
    backbone = on_meta(name)
    assert count_parameters(backbone) == parameters
    assert count_parameters(backbone) + count_parameters(LinearLayer(512, classes)) == with_head
    assert backbone.num_features == 512


@pytest.mark.parametrize("name", TRUNKS)
def test_timm_trunks_have_the_published_parameters_and_batch_norms(name):
    backbone = on_meta(name)
    assert (count_parameters(backbone), len(norms(backbone))) == TRUNKS[name]
    width = 512 if name == "resnet10" else 2048
    assert backbone.num_features == width
    assert backbone(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, width)


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [("resnet32", 64, 7_440_000), ("resnet32", None, 464_154), ("resnet34", None, 21.28e6)],
)
def test_resnets_of_one_name_differ_by_their_width(name, width, expected):
    """GLMC's ResNet-32 of 64 channels has 7.44 million parameters."""
    with torch.device("meta"):
        model = Classifier(create_backbone(name, in_channels=3, width=width), LinearLayer(4 * (width or 16), 10))
        if name == "resnet34":
            model.head = LinearLayer(512, 10)
    assert count_parameters(model) == pytest.approx(expected, rel=0.01)


def test_macs_of_resnet32_are_the_published_69_million():
    assert count_macs(Classifier(build("resnet32"), LinearLayer(64, 10)), 3, 32) == pytest.approx(69e6, rel=0.01)


def test_counting_macs_leaves_the_model_as_it_is():
    model = build("resnet8").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, 3, 32)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
def test_width_scales_every_stage(name):
    usual = {"resnet8": 16, "resnet18": 64}[name]
    assert count_parameters(build(name, width=usual)) == count_parameters(build(name))
    assert build(name, width=8).num_features == 8 * build(name).num_features // usual


def test_frozen_parameters_are_counted_too():
    head = LinearLayer(4, 3)
    head.weight.requires_grad_(False)
    assert count_parameters(head) == 15


# Outputs


@pytest.mark.parametrize(
    ("name", "channels"),
    [(name, 3) for name in (*BACKBONES, *OTHERS)] + [(name, 1) for name in ("resnet8", "resnet18", *OTHERS)],
)
def test_every_backbone_gives_pooled_features(name, channels):
    backbone = build(name, channels).eval()
    with torch.no_grad():
        features = backbone(images(channels=channels))
    assert features.shape == (2, backbone.num_features)
    assert features.isfinite().all()
    if name in BACKBONES:
        assert (features >= 0).all()
        assert (features > 0).any()


@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
@pytest.mark.parametrize("size", [8, 32, 33, 64])
def test_feature_width_does_not_depend_on_the_image_size(name, size):
    backbone = build(name).eval()
    with torch.no_grad():
        assert backbone(images(size=size)).shape == (2, backbone.num_features)


def test_timm_trunk_gives_features_that_are_not_negative_at_any_size():
    backbone = build("resnet50").eval()
    for size in (64, 96):
        with torch.no_grad():
            features = backbone(images(1, size=size))
        assert features.shape == (1, 2048)
        assert (features >= 0).all()


def test_shortcut_between_stages_subsamples_and_pads_without_parameters():
    backbone = build("resnet8")
    for stage in (1, 2):
        block = backbone.stages[stage][0]
        assert count_parameters(block.shortcut) == 0
        x = images(channels=16 * stage, size=8)
        out = block.shortcut(x)
        before = 8 * stage
        assert out.shape == (2, 32 * stage, 4, 4)
        assert torch.equal(out[:, before : before + 16 * stage], x[:, :, ::2, ::2])
        assert out[:, :before].abs().sum() == out[:, before + 16 * stage :].abs().sum() == 0


def test_block_is_the_residual_formula():
    block = build("resnet8").eval().stages[0][0]
    x = images(channels=16, size=8).relu()
    with torch.no_grad():
        inner = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
        assert torch.equal(block(x.clone()), F.relu(inner + x))


# Initial weights


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = (build("resnet8", seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_cifar_convolutions_start_kaiming_normal():
    for part in build("resnet32").modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 5000:
            expected = math.sqrt(2 / (part.in_channels * 9))
            assert float(part.weight.detach().std()) == pytest.approx(expected, rel=0.05)
            assert float(part.weight.detach().abs().max()) > 3 * expected, "normal, not uniform"


def test_timm_convolutions_start_normal_by_their_outputs_also_grouped_ones():
    """Kang et al.: sqrt(2 / (k * k * out_channels)) with all output channels, whatever the groups."""
    for part in build("resnext50_32x4d").modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 5000:
            expected = math.sqrt(2 / (part.kernel_size[0] ** 2 * part.out_channels))
            assert float(part.weight.detach().std()) == pytest.approx(expected, rel=0.06)


def test_batch_norms_start_at_one_and_zero_also_the_last_of_a_timm_block():
    for name in ("resnet8", "resnet18", "resnet26"):
        for norm in norms(build(name)):
            assert (norm.weight == 1).all()
            assert (norm.bias == 0).all()


# The factory


@pytest.mark.parametrize("name", ["resnet33", "resnet-32", "", "timm:nothing", "RESNET8"])
def test_unknown_backbone_is_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError) as caught:
        build(name)
    message = str(caught.value)
    assert message.startswith("train.backbone must be one of resnet8, resnet20, resnet32")
    assert message.endswith(f", or the name of a timm model, got {show(name)}")


def test_prefix_chooses_timms_model_of_the_same_name():
    ours, theirs = on_meta("resnet18"), on_meta("timm:resnet18")
    assert type(ours) is not type(theirs)
    assert theirs.num_features == 512
    assert count_parameters(theirs) == 11_176_512


def test_width_of_a_timm_model_is_refused():
    with pytest.raises(ConfigError, match=r"train\.width must be auto with train\.backbone: resnet50, .* got 8$"):
        build("resnet50", width=8)


def test_depth_must_be_6n_plus_2():
    with pytest.raises(AssertionError):
        CifarResNet(9)


# Heads


def head_scores(head: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Scores of the exported head, without torch."""
    return torch.from_numpy(head.export().scores(x.numpy()))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1)) * 3


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_exported_head_gives_the_scores_of_forward(kind, x):
    torch.manual_seed(0)
    head = create_head(kind, 5, 4, scale=16.0)
    assert head.export().kind == kind
    torch.testing.assert_close(head_scores(head, x), head(x).detach())
    torch.testing.assert_close(build_layer(head.export())(x), head(x))


def test_exported_head_does_not_change_with_the_layer():
    head = create_head("linear", 5, 4)
    exported = head.export()
    before = exported.weight.copy()
    with torch.no_grad():
        head.weight.zero_()
    assert np.array_equal(exported.weight, before)


def test_layer_of_a_head_without_bias_starts_with_a_bias_of_zero(x):
    head = LinearHead(np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32))
    np.testing.assert_allclose(build_layer(head)(x).detach(), head.scores(x.numpy()), rtol=1e-5)


def test_linear_head_starts_uniform_within_one_over_root_of_the_width():
    torch.manual_seed(0)
    head = create_head("linear", 2048, 1000)
    bound = 1 / math.sqrt(2048)
    assert bound == pytest.approx(0.0220971, abs=1e-7)
    for part in (head.weight, head.bias):
        assert float(part.detach().abs().max()) <= bound
        assert float(part.detach().abs().max()) > 0.99 * bound
    assert float(head.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_cosine_head_scores_lie_within_the_scale_and_ignore_lengths(x):
    torch.manual_seed(0)
    head = CosineLayer(5, 4, 30.0)
    assert (head.weight.norm(dim=1) - 1).abs().max() < 1e-6
    assert head(x).abs().max() <= 30.0 + 1e-4
    torch.testing.assert_close(head(7 * x), head(x))
    with torch.no_grad():
        scores = head(x)
        head.weight.mul_(5)
        torch.testing.assert_close(head(x), scores)
        np.testing.assert_allclose(np.linalg.norm(head.export().weight, axis=1), np.ones(4), rtol=1e-6)
        torch.testing.assert_close(head(head.weight[:1]).max(), torch.tensor(30.0))


def test_cosine_head_of_a_zero_feature_is_finite():
    assert CosineLayer(5, 4, 30.0)(torch.zeros(1, 5)).abs().sum() == 0


@pytest.mark.parametrize("unit_input", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_scaled_head_exports_what_it_computes(x, unit_input, with_bias):
    weight, bias = torch.randn(4, 5), torch.randn(4) if with_bias else None
    kind = "unit" if unit_input else "linear"
    head = ScaledLayer(LinearHead(weight.numpy(), None if bias is None else bias.numpy(), kind))
    assert head.export().kind == kind
    start = F.linear(F.normalize(x) if unit_input else x, weight, bias)
    assert torch.equal(head(x).detach(), start), "scales of 1 reproduce the head"
    with torch.no_grad():
        head.scales.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
    torch.testing.assert_close(head(x).detach(), start * head.scales.detach())
    torch.testing.assert_close(head_scores(head, x), head(x).detach())


def test_scaled_head_learns_its_scales_only():
    head = ScaledLayer(LinearHead(np.ones((4, 5), np.float32), np.ones(4, np.float32)))
    assert [name for name, _ in head.named_parameters()] == ["scales"]


def test_classifier_is_head_of_backbone(x):
    model = Classifier(build("resnet8"), LinearLayer(64, 4)).eval()
    with torch.no_grad():
        features = model.forward_features(images())
        assert torch.equal(model(images()), model.head(features))


# On disk

META = {"name": "resnet8", "width": None, "channels": 1, "note": [1, 2]}


def test_backbone_and_head_survive_the_round_trip(tmp_path):
    backbone = build("resnet8", 1)
    backbone(images(channels=1))  # running statistics move
    head = LinearHead(torch.randn(4, 64).numpy(), torch.randn(4).numpy())
    written = save_backbone(tmp_path / "a.pt", backbone, META, head)
    found, found_head, meta, digest = load_backbone(tmp_path / "a.pt", "train_backbone")
    assert (meta, digest) == (META, written)
    expected = backbone.state_dict()
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    assert (found_head.kind, found_head.scale) == ("linear", 1.0)
    assert np.array_equal(found_head.weight, head.weight) and np.array_equal(found_head.bias, head.bias)
    again = save_backbone(tmp_path / "b.pt", found, meta, found_head)
    assert again == written
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_backbone_without_a_head_has_none(tmp_path):
    save_backbone(tmp_path / "a.pt", build("resnet8", 1), META)
    assert load_backbone(tmp_path / "a.pt", "pretrain")[1] is None


def test_narrow_backbone_is_rebuilt_by_its_recorded_width(tmp_path):
    save_backbone(tmp_path / "a.pt", build("resnet8", 1, width=4), META | {"width": 4})
    assert load_backbone(tmp_path / "a.pt", "pretrain")[0].num_features == 16


@pytest.mark.parametrize("other", [{"name": "resnet20"}, {"width": 8}, {"channels": 3}])
def test_weights_that_do_not_fit_are_refused_with_file_and_architecture(tmp_path, other):
    save_backbone(tmp_path / "a.pt", build("resnet8", 1), META | other)
    with pytest.raises(ArtifactError, match=rf"a\.pt does not fit {other.get('name', 'resnet8')}"):
        load_backbone(tmp_path / "a.pt", "train_backbone")


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_backbone_with_a_missing_or_strange_tensor_is_refused(tmp_path, change):
    save_backbone(tmp_path / "a.pt", build("resnet8", 1), META)
    tensors, meta, _ = load_checkpoint(tmp_path / "a.pt", "x")
    if change == "missing":
        del tensors["backbone.conv1.weight"]
    else:
        tensors["backbone.strange"] = torch.zeros(1)
    save_checkpoint(tmp_path / "a.pt", tensors, meta)
    with pytest.raises(ArtifactError, match=r"a\.pt does not fit resnet8"):
        load_backbone(tmp_path / "a.pt", "train_backbone")


def test_checkpoint_that_is_no_backbone_is_refused(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"a": torch.zeros(1)}, {"epoch": 3})
    with refused(r"a\.pt", "train_backbone"):
        load_backbone(tmp_path / "a.pt", "train_backbone")


# Names and image sizes


def test_names_known_without_torch_are_those_of_our_registry_and_of_timm():
    import timm
    from timm.models import _registry

    assert set(OWN_NAMES) == set(BACKBONES)
    known = {*OWN_NAMES, *(f"timm:{name}" for name in OWN_NAMES[-2:]), *TIMM_BUILT, "resnet50.a1_in1k"}
    assert all(is_known_backbone(name) for name in known)
    assert [name for name in timm.list_models() if not is_known_backbone(name)] == []
    renamed = _registry._deprecated_models
    assert [name for name, current in renamed.items() if is_known_backbone(name) != (current is not None)] == []
    for name in ("", "resnet", "resnet9", "resnet50x", "Resnet50", "register_model", "_create_resnet", "(", "timm:"):
        assert not is_known_backbone(name)


def test_name_is_looked_up_quickly_and_without_torch():
    program = (
        "import sys, time; from longtail.models.names import is_known_backbone; start = time.perf_counter(); "
        "assert is_known_backbone('vit_tiny_patch16_224') and not is_known_backbone('no_such_model'); "
        "assert time.perf_counter() - start < 0.15; assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize(
    ("name", "image_size", "channels"),
    [("resnet8", 8, 1), ("resnet50", 32, 3), ("vit_tiny_patch16_224", 32, 3), ("swin_tiny_patch4_window7_224", 64, 3)],
)
def test_backbone_that_takes_the_images_passes_and_leaves_the_random_state(name, image_size, channels):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    check_backbone(name, image_size, channels)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "image_size"), [("vit_tiny_patch16_224", 8), ("convnext_atto", 8), ("inception_v3", 32)]
)
def test_backbone_that_does_not_take_the_images_is_one_sentence_that_names_both_keys(name, image_size):
    with pytest.raises(ConfigError, match=rf"train\.backbone must .* image_size: {image_size} .* got {name}") as caught:
        check_backbone(name, image_size, 3)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="must be one of"):
        check_backbone("no_such_model", 32, 3)


def test_timm_model_of_fixed_size_is_built_for_the_size_of_the_images_and_stored_with_it(tmp_path):
    backbone = create_backbone("vit_tiny_patch16_224", in_channels=1, image_size=32).eval()
    rows = torch.randn(2, 1, 32, 32)
    meta = {"name": "vit_tiny_patch16_224", "width": None, "channels": 1, "image_size": 32}
    save_backbone(tmp_path / "a", backbone, meta)
    found = load_backbone(tmp_path / "a", "pretrain")[0].eval()
    with torch.no_grad():
        assert backbone(rows).shape == (2, backbone.num_features)
        assert torch.equal(found(rows), backbone(rows))
