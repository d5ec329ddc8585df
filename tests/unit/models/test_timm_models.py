"""What timm publishes of a model, and what is said where its weights cannot be had."""

import socket
from typing import Any

import pytest

from longtail.models.timm_models import own_size, read_published, trained_on
from tests.unit.models.helpers import refusal


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("in1k", "ImageNet-1k (in1k)"),
        ("augreg_in21k_ft_in1k", "ImageNet-1k, ImageNet-21k (augreg_in21k_ft_in1k)"),
        ("laion2b_ft_in12k", "ImageNet-12k, LAION (laion2b_ft_in12k)"),
        ("lvd142m", "LVD-142M (lvd142m)"),
        ("some_tag", "some_tag"),
        ("", "unknown"),
    ],
)
def test_tag_of_a_timm_model_names_its_training_images(tag, expected):
    assert trained_on(tag) == expected


def test_without_a_network_the_error_says_which_file_to_place_where(monkeypatch):
    def fail(*words: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.delenv("https_proxy", raising=False)
    message = refusal(lambda: read_published("test_vit", 3, 160, False))
    for word in ("pretrain.weights", "model.safetensors", "huggingface.co/timm/test_vit.r160_in1k", "its path"):
        assert word in message


def test_network_without_published_weights_needs_a_file():
    message = refusal(lambda: read_published("resnet10", 3, 64, False))
    assert "resnet10, which has no published weights" in message


def test_size_is_that_of_the_training_images_and_ours_have_none():
    names = ("test_vit", "timm:resnet18", "resnet18", "resnet10")
    assert [own_size(name) for name in names] == [160, 224, None, None]
