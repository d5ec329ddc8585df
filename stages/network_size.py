"""The size of the images that the network's weights were trained at, for ``prepare``, where it has to know."""

from collections.abc import Mapping
from typing import Any

from longtail.core.params import bind
from longtail.methods.objectives import OBJECTIVES
from longtail.methods.objectives.params import TrainParams
from longtail.models.timm_models import own_size


def network_size(content: Mapping[str, Any]) -> int | None:
    """The side in pixels; None for our own networks, which take any. It imports timm."""
    return own_size(bind(TrainParams, content.get("train", {}), OBJECTIVES.available()).backbone)
