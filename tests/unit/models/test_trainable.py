"""Which weights of a backbone are trained."""

import pytest
import torch
from torch import nn

from longtail.core.errors import ConfigError
from longtail.models.factory import create_backbone
from longtail.models.trainable import set_trainable

LAST = {
    "resnet8": "stages.2.",
    "resnet18": "stages.3.",
    "resnet10": "layer4.",
    "tf_efficientnet_lite0": ("blocks.6.", "conv_head.", "bn2."),
    "test_vit": ("blocks.5.", "norm."),
    "convnext_atto": ("stages.3.", "head.norm."),
    "regnety_002": "s4.",
    "densenet121": ("features.denseblock4", "features.norm5"),
}


def trained(backbone):
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


@pytest.fixture(scope="module", params=LAST)
def network(request):
    with torch.device("meta"):
        return request.param, create_backbone(request.param, in_channels=3, image_size=160)


def test_last_stage_is_its_weights_and_what_follows(network):
    name, backbone = network
    set_trainable(backbone, "last_stage")
    assert trained(backbone) == {n for n, _ in backbone.named_parameters() if n.startswith(LAST[name])}


def test_norm_is_every_scale_and_shift_and_no_matrix(network):
    _, backbone = network
    set_trainable(backbone, "norm")
    found = trained(backbone)
    assert found and all(parameter.ndim == 1 for name, parameter in backbone.named_parameters() if name in found)
    layers = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)]
    assert len(found) == sum(len(list(layer.parameters())) for layer in layers)


def test_bias_all_and_head_are_what_they_say(network):
    _, backbone = network
    names = {name for name, _ in backbone.named_parameters()}
    set_trainable(backbone, "bias")
    assert trained(backbone) == {name for name in names if name.endswith("bias")}
    set_trainable(backbone, "all")
    assert trained(backbone) == names
    set_trainable(backbone, "head")
    assert trained(backbone) == set()


def test_backbone_without_such_weights_is_refused():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False))
    for choice, what in (("norm", "normalization layers"), ("bias", "biases")):
        with pytest.raises(ConfigError, match=rf"train\.trainable must not be {choice} .* no {what}"):
            set_trainable(backbone, choice)
