"""The weights of ``pretrain`` with the method ``weights``: what is loaded, and what the model expects of its images."""

from typing import Any

from torch import nn

from longtail.core.head import LinearHead
from longtail.data.manifest import DatasetInfo
from longtail.methods.pretraining.params import PretrainParams
from longtail.models.timm_models import own_size
from longtail.models.weights import input_config, load_file, load_published
from stages.context import Context


def network_size(context: Context, name: str, info: DatasetInfo) -> int:
    """The side of the network's images: ``image_size``, or the model's own, or that of the prepared images."""
    chosen = context.content.get("image_size", "auto")
    return (own_size(name) or info.image_size) if chosen == "auto" else int(chosen)


def load(
    params: PretrainParams, name: str, backbone: nn.Module, info: DatasetInfo, image_size: int
) -> tuple[dict[str, Any], LinearHead | None]:
    """Load the weights into the backbone, and print what was loaded.

    Returns:
        Further metadata (``input``, ``weights``), and the head if ``pretrain.head`` asks for it.
    """
    shape = (info.num_classes, int(backbone.num_features)) if params.head == "file" else None  # type: ignore[arg-type]
    if params.file is None:
        loaded = load_published(backbone, name=name, channels=info.channels, image_size=image_size, head_shape=shape)
    else:
        loaded = load_file(backbone, params.file, shape)
    print("\n".join(loaded.lines()))
    config = input_config(backbone, info.channels, image_size)
    return {"input": None if config is None else config.to_meta(), "weights": loaded.report}, loaded.head
