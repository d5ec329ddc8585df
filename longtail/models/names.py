"""Names of backbones, known without importing torch."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from longtail.core.params import refuse

CIFAR_DEPTHS = (8, 20, 32, 44, 56, 110)
STEM_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
OWN_NAMES = (*(f"resnet{depth}" for depth in CIFAR_DEPTHS), *STEM_DEPTHS)
# Of Kang et al. 2020. They are built from timm's parts, since timm has no models of these names; its `resnet10t` has
# another stem and other shortcuts.
RESNET10, RESNEXT152 = "resnet10", "resnext152_32x4d"
TIMM_BUILT = (RESNET10, RESNEXT152)
TIMM_PREFIX = "timm:"

_DEPRECATIONS = re.compile(rb"^register_model_deprecations\(.*?\}\)", re.MULTILINE | re.DOTALL)


def is_known_backbone(name: str) -> bool:
    """Whether ``name`` is one of our backbones or a model of timm, perhaps with a tag (``resnet50.a1_in1k``).

    timm's names come from its source files, because importing timm takes seconds.
    """
    if name in OWN_NAMES:
        return True
    name = name.removeprefix(TIMM_PREFIX)
    return name in TIMM_BUILT or _is_timm_model(name.partition(".")[0])


@cache
def _is_timm_model(name: str) -> bool:
    if not re.fullmatch(r"\w+", name):
        return False
    spec = find_spec("timm")
    assert spec is not None and spec.submodule_search_locations is not None, "timm is a dependency"
    word = name.encode()
    registered = re.compile(rb"^@register_model\s*\n(?:@.*\n)*def %s\(" % word, re.MULTILINE)
    renamed = re.compile(rb"""["']%s["']\s*:\s*["']""" % word)  # None instead of a name: removed from timm
    for path in Path(spec.submodule_search_locations[0], "models").glob("*.py"):
        source = path.read_bytes()
        if word not in source:
            continue
        if registered.search(source) or any(renamed.search(block) for block in _DEPRECATIONS.findall(source)):
            return True
    return False


def check_name(name: str, width: int | None = None) -> None:
    """Refuse an unknown backbone, or a width for one of fixed width.

    Raises:
        ConfigError: names ``train.backbone`` or ``train.width``.
    """
    if not is_known_backbone(name):
        raise refuse(
            "train.backbone", f"one of {', '.join((*OWN_NAMES, *TIMM_BUILT))}, or the name of a timm model", name
        )
    if width is not None and name not in OWN_NAMES:
        raise refuse("train.width", f"auto with train.backbone: {name}, a timm model of fixed width", width)
