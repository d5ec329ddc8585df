"""Names of tensors in released files, mapped to the names of a backbone.

A file is a state dict, or a checkpoint that holds one beside other things. Both sides of a comparison are brought to
one form, torchvision's names of a ResNet, so that files of torchvision, timm, this project and the released code of
LDAM-DRW, SSP, MoCo, PaCo and Decoupling fit the same network.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# Where checkpoints keep the weights, by preference: the best epoch, averaged weights, the last ones.
WRAPPERS = ("state_dict_best", "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state", "model",
            "net", "network", "weights", "params")  # fmt: skip
# What may precede the names of a backbone.
PREFIXES = {"module", "_orig_mod", "feat_model", "backbone", "encoder_q", "base_encoder", "encoder", "model", "net",
            "network", "trunk", "visual"}  # fmt: skip
CONTRASTIVE = {"encoder_q", "base_encoder"}  # what such an encoder calls its classifier is a projection
CLASSIFIERS = ("fc", "linear", "classifier", "head", "classifier.fc", "head.fc", "heads.head")
_OPTIMIZER = re.compile(r"(optim|sched|lr_sched|scaler|amp|grad_scaler)")
_MOMENTUM = re.compile(r"(^|\.)(encoder_k|momentum_encoder|key_encoder|linear_k|queue\w*)(\.|$)")
_PROJECTION = re.compile(r"(proj\w*|predictor\w*|contrast\w*|mlp_head\w*|head_contrast|instance_head)\.")
_CLASSIFIER = re.compile(r"(fc\w*|linear\w*|classifier\w*|heads?)\.")


@dataclass
class Matched:
    """The tensors of a file for one backbone.

    Attributes:
        tensors: by the names of the backbone; shapes are not compared here.
        origins: for each of them, its name in the file.
        left_out: for every other entry of the file, why: ``classifier``, ``projection``, ``momentum encoder``,
            ``optimizer``, ``other weights``, ``other value`` or ``unknown``.
        prefix: what precedes the backbone's names in the file.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    prefix: str = ""


def collect(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a checkpoint by dotted names, and why each of its other entries is left out.

    What lies in wrappers such as ``state_dict`` is taken out of them. Groups of tensors inside, such as ``feat_model``
    and ``classifier``, precede the names.
    """
    left_out: dict[str, str] = {}
    while chosen := next((name for name in WRAPPERS if _holds_tensors(content.get(name))), None):
        left_out |= {str(name): _kind_beside(str(name), value) for name, value in content.items() if name != chosen}
        content = content[chosen]
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and _kind_beside(str(name), value) == "optimizer":
            left_out[str(name)] = "optimizer"
            continue
        for inner, leaf in _leaves(str(name), value):
            if isinstance(leaf, Tensor):
                tensors[inner] = leaf
            else:
                left_out[inner] = _kind_beside(inner, leaf)
    return tensors, left_out


def match(tensors: Mapping[str, Tensor], targets: Iterable[str]) -> Matched:
    """Find the tensors of a backbone with the state ``targets`` in a file. Shapes do not count.

    If the file has several, as momentum contrast has, the group with the most matching names is taken, and never the
    momentum encoder.
    """
    wanted = {canonical(name): name for name in targets}
    found = Matched()
    candidates: list[tuple[str, str, str]] = []
    prefixes: Counter[str] = Counter()
    for name in tensors:
        if _MOMENTUM.search(name):
            found.left_out[name] = "momentum encoder"
            continue
        for prefix, rest in _stripped(name):
            if (target := wanted.get(canonical(rest))) is not None:
                candidates.append((name, prefix, target))
                prefixes[prefix] += 1
                break
    for name, _, target in sorted(candidates, key=lambda one: -prefixes[one[1]]):
        if target not in found.tensors:
            found.tensors[target], found.origins[target] = tensors[name], name
    found.prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    used = set(found.origins.values())
    for name in tensors:
        if name not in used and name not in found.left_out:
            found.left_out[name] = _kind_of(name, found.prefix)
    return found


def canonical(name: str) -> str:
    """torchvision's name of a tensor of a ResNet that may have another one; other names as they are."""
    name = re.sub(r"^stages\.(\d+)\.", lambda found: f"layer{int(found[1]) + 1}.", name)
    return re.sub(r"^(layer\d+\.\d+)\.shortcut\.", r"\1.downsample.", name)


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class LinearClassifier:
    """A classifier in a file.

    Attributes:
        names: of its tensors; that of the weight is the first.
        weight: 2-D.
        bias: or None.
        scales: one factor per class of weight and bias, as LWS has them; or None.
    """

    names: tuple[str, ...]
    weight: Tensor
    bias: Tensor | None
    scales: Tensor | None


def find_classifier(
    tensors: Mapping[str, Tensor], found: Matched, preferred: Iterable[str] = ()
) -> LinearClassifier | None:
    """The linear classifier among the tensors that the backbone left over.

    Args:
        tensors: all of the file.
        found: what :func:`match` gave for them.
        preferred: further names of classifiers, which come first.

    The last layer of a contrastive encoder is a projection and does not count.
    """
    candidates: dict[str, str] = {}
    for name, kind in found.left_out.items():
        if kind == "classifier" and name.endswith(".weight") and tensors[name].ndim == 2:
            *_, (_, rest) = _stripped(name)
            candidates.setdefault(rest.removesuffix(".weight").replace(".module.", "."), name.removesuffix(".weight"))
    for known in (*preferred, *CLASSIFIERS):
        if known in candidates:
            layer = candidates[known]
            weight, bias, scales = f"{layer}.weight", f"{layer}.bias", _sibling(layer, "scales")
            names = tuple(name for name in (weight, bias, scales) if name in tensors)
            return LinearClassifier(names, tensors[weight], tensors.get(bias), tensors.get(scales))
    return None


def _sibling(name: str, other: str) -> str:
    return ".".join([*name.split(".")[:-1], other])


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(leaf, Tensor) for _, leaf in _leaves("", value))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield name, value
        return
    for inner, content in value.items():
        yield from _leaves(f"{name}.{inner}" if name else str(inner), content)


def _kind_beside(name: str, value: Any) -> str:
    if _OPTIMIZER.match(name.lower()):
        return "optimizer"
    return "other weights" if isinstance(value, Tensor) or _holds_tensors(value) else "other value"


def _stripped(name: str) -> Iterator[tuple[str, str]]:
    """(prefix, rest) for the whole name, then without one more of its prefixes each time."""
    rest = name
    while True:
        yield name[: len(name) - len(rest)], rest
        first, dot, others = rest.partition(".")
        if first not in PREFIXES or not dot:
            return
        rest = others


def _kind_of(name: str, prefix: str) -> str:
    inside = bool(prefix) and name.startswith(prefix) and bool(CONTRASTIVE & set(prefix.split(".")))
    *_, (_, rest) = _stripped(name)
    if _PROJECTION.match(rest):
        return "projection"
    if _CLASSIFIER.match(rest):
        return "projection" if inside else "classifier"
    return "unknown"
