"""What timm publishes of a model: its size, its training images, and its weights. timm is imported on first use."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from longtail.artifacts.digest import file_digest
from longtail.core.errors import ConfigError
from longtail.models.names import OWN_NAMES, TIMM_BUILT, TIMM_PREFIX

if TYPE_CHECKING:
    from torch import Tensor

# What the tag of a timm model calls its training images, with their names.
DATASETS = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "inat21": "iNaturalist 2021",
    "laion": "LAION",
    "openai": "OpenAI's image-text pairs",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "webli": "WebLI",
    "datacomp": "DataComp",
    "dfn": "DFN",
    "yfcc": "YFCC",
    "cc12m": "CC12M",
    "merged2b": "Merged-2B",
    "metaclip": "MetaCLIP",
    "jft": "JFT-300M",
    "ig1b": "Instagram-1B",
    "swag": "Instagram",
}


@dataclass(frozen=True)
class Published:
    """Published weights.

    Attributes:
        tensors: the state of the model.
        source: the repository of the hub, or the address of the file.
        sha256: of the file; None if it is not in the hub's cache.
        license: ``unknown`` where timm names none.
        trained_on: as :func:`trained_on` says.
        classifiers: names of the classifier's layers.
    """

    tensors: "dict[str, Tensor]"
    source: str
    sha256: str | None
    license: str
    trained_on: str
    classifiers: tuple[str, ...]


def own_size(name: str) -> int | None:
    """The side in pixels that a timm model was trained at; None for our own networks."""
    config = _config_of(name)
    return None if config is None else int(config.input_size[-1])


def trained_on(tag: str) -> str:
    """The images that the tag of a timm model names, with the tag; ``unknown`` without one."""
    if not tag:
        return "unknown"
    words = tag.split("_")
    found = [full for short, full in DATASETS.items() if any(word.startswith(short) for word in words)]
    return f"{', '.join(found)} ({tag})" if found else tag


def read_published(name: str, channels: int, image_size: int, with_classifier: bool) -> Published:
    """The weights that timm publishes for its model ``name``, from the hub's cache or its server.

    Args:
        name, channels, image_size: of the backbone, as ``create_backbone`` takes them.
        with_classifier: whether the tensors of the classifier are wanted too.

    Raises:
        ConfigError: there are no published weights, or they cannot be had without a network.
    """
    import timm

    config = _config_of(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise ConfigError(
            f"pretrain.weights must be a file with train.backbone: {name}, which has no published weights, got auto"
        )
    options: dict[str, Any] = {"img_size": image_size} if config.fixed_input_size else {}
    if not with_classifier:
        options["num_classes"] = 0
    if (cached := _cached(config)) is not None:  # without asking the server
        options["pretrained_cfg_overlay"] = {"file": str(cached)}
    try:
        if cached is None:
            _require_server(config)
        model = timm.create_model(name.removeprefix(TIMM_PREFIX), pretrained=True, in_chans=channels, **options)
    except Exception as error:  # whatever timm, the hub and their network libraries raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        where = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        raise ConfigError(
            f"pretrain.weights must be a file where the published weights of {name} cannot be had, got auto; download "
            f"{config.hf_hub_filename or 'model.safetensors'} of {where} to any folder and set pretrain.weights to its "
            f"path ({reason})"
        ) from error
    return Published(
        tensors=dict(model.state_dict()),
        source=config.hf_hub_id or str(config.url),
        sha256=None if (file := _cached(config)) is None else file_digest(file),
        license=config.license or "unknown",
        trained_on=trained_on(config.tag or ""),
        classifiers=classifier_names(config.classifier),
    )


def classifier_names(given: Any) -> tuple[str, ...]:
    """The names of a timm model's classifiers; a configuration has none, one or several."""
    return () if not given else (given,) if isinstance(given, str) else tuple(given)


def _config_of(name: str) -> Any:
    """timm's ``PretrainedCfg`` of a backbone; None for networks that are not timm's."""
    if name in OWN_NAMES or name in TIMM_BUILT:
        return None
    import timm

    return timm.get_pretrained_cfg(name.removeprefix(TIMM_PREFIX))


def _cached(config: Any) -> Path | None:
    """The published file in the hub's cache; None if it is not there under a usual name."""
    if not config.hf_hub_id:
        return None
    from huggingface_hub import try_to_load_from_cache

    for filename in (config.hf_hub_filename, "model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin"):
        if filename and isinstance(path := try_to_load_from_cache(config.hf_hub_id, filename), str):
            return Path(path)
    return None


def _require_server(config: Any) -> None:
    """Fail at once if the server has no address, which the hub would try for most of a minute."""
    from huggingface_hub import constants

    if not getproxies():
        socket.getaddrinfo(urlsplit(constants.ENDPOINT if config.hf_hub_id else str(config.url)).hostname, 443)
