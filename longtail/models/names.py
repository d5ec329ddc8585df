"""Names of backbones, known without torch."""

import importlib.util
import re
from functools import cache
from pathlib import Path

from longtail.core.params import refuse

CIFAR_DEPTHS = (8, 20, 32, 44, 56, 110)
STEM_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
OWN = (*(f"resnet{depth}" for depth in CIFAR_DEPTHS), *STEM_DEPTHS)
RESNEXT152 = "resnext152_32x4d"  # of Kang et al. 2020; timm has its parts, but no model of this name
TIMM_PREFIX = "timm:"


@cache
def timm_names() -> frozenset[str]:
    """Names of all models that timm registers, read from its source: importing timm imports torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    registered = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return frozenset(name for path in files for name in registered.findall(path.read_text(encoding="utf-8")))


def check_name(name: str, width: int | None = None) -> None:
    """Refuse an unknown backbone, or a width for one of fixed width.

    Raises:
        ConfigError: names ``train.backbone`` or ``train.width``.
    """
    if name in OWN:
        return
    model = name.removeprefix(TIMM_PREFIX)
    if model != RESNEXT152 and model.partition(".")[0] not in timm_names():
        raise refuse("train.backbone", f"one of {', '.join(OWN)}, {RESNEXT152}, or the name of a timm model", name)
    if width is not None:
        raise refuse("train.width", f"auto with train.backbone: {name}, a timm model of fixed width", width)
