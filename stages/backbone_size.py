"""Whether the backbone takes the images, checked before any work starts.

Only a timm model can refuse a size. It is built, without memory for its weights, to find out, which imports torch. The
caller remembers the verdict, so that happens once per change of the parameters.
"""

from collections.abc import Mapping
from typing import Any

from longtail.core.params import bind, keys_of
from longtail.data.params import DatasetParams
from longtail.data.sources import SOURCES
from longtail.methods.objectives import OBJECTIVES
from longtail.methods.objectives.params import TrainParams
from longtail.methods.pretraining import WEIGHTS
from longtail.models.names import OWN_NAMES


def check_backbone_size(content: Mapping[str, Any]) -> None:
    """Refuse a backbone that does not take images of ``image_size``.

    ``image_size: auto`` of files is decided by ``prepare``. Then ``pretrain`` checks it, which builds the backbone.

    Raises:
        ConfigError: names ``train.backbone`` and ``image_size``.
    """
    train = bind(TrainParams, content.get("train", {}), OBJECTIVES.available())
    if train.backbone in OWN_NAMES:
        return
    dataset = bind(DatasetParams, {name: value for name, value in content.items() if name in keys_of(DatasetParams)})
    side, channels = SOURCES.get(dataset.dataset).image_shape or (None, 3)
    if content.get("pretrain", {}).get("method") == WEIGHTS:
        side = None  # the model's own, which it takes
    size = side if dataset.image_size == "auto" else dataset.image_size
    if size is not None:
        from longtail.models.factory import check_backbone

        check_backbone(train.backbone, size, channels)
