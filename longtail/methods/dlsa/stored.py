"""A trained DLSA model on disk."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longtail.artifacts.checkpoints import load_checkpoint, save_checkpoint
from longtail.core.errors import ArtifactError
from longtail.methods.dlsa.chain import Chain, Level, TrainedHead, unique_heads
from longtail.methods.dlsa.classifiers import RouteHead
from longtail.methods.dlsa.filter import FlowFilter
from longtail.methods.dlsa.flow_training import FlowHistory
from longtail.methods.dlsa.settings import Settings
from longtail.train.checkpointing import add_prefix, strip_prefix

STAGE = "train_dlsa"


def save_chain(path: str | Path, chain: Chain, meta: Mapping[str, Any]) -> str:
    """Write filters, thresholds, cluster priors and classifiers, without histories, and JSON-able ``meta``.

    Returns the digest of the file.
    """
    tensors: dict[str, torch.Tensor] = {}
    for number, level in enumerate(chain.levels, start=1):
        tensors |= add_prefix(f"filter.{number}.", level.filter.state_dict())
        tensors[f"prior.{number}"] = torch.from_numpy(level.prior)
    if chain.moments is not None:
        tensors["offset"], tensors["scale"] = chain.moments
    trained = unique_heads(chain.heads)
    for one in trained:
        tensors |= add_prefix(f"head.{one.head.routes[0]}.", one.head.state_dict())
    width = trained[0].head.first.in_features
    content = {
        "settings": asdict(chain.settings),
        "num_classes": chain.num_classes,
        "width": width,
        "seed": chain.seed,
        "unit_input": chain.unit_input,
        "levels": [[level.threshold, level.epoch, level.rule] for level in chain.levels],
        "heads": [[one.head.routes, one.epoch, one.selected_on] for one in trained],
    }
    return save_checkpoint(path, tensors, {"chain": content, "meta": dict(meta)})


def load_chain(path: str | Path, device: str | torch.device = "cpu") -> tuple[Chain, dict[str, Any]]:
    """Read a file of ``save_chain``: a chain that can route and score rows, with empty histories, and its ``meta``.

    Raises:
        ArtifactError: the file is missing or damaged, or holds no DLSA model.
    """
    tensors, stored, _ = load_checkpoint(path, STAGE)
    if "chain" not in stored:
        raise ArtifactError(path, "holds no DLSA model", STAGE)
    content = stored["chain"]
    settings, width = Settings(**content["settings"]), content["width"]
    chain = Chain(settings, content["num_classes"], content["seed"], content["unit_input"])
    dtype = next(tensor.dtype for name, tensor in tensors.items() if name.startswith("head."))
    if "offset" in tensors:
        chain.moments = (tensors["offset"].to(device), tensors["scale"].to(device))
    for number, (threshold, epoch, rule) in enumerate(content["levels"], start=1):
        model = FlowFilter(width, settings).to(device, dtype)
        model.load_state_dict(strip_prefix(f"filter.{number}.", tensors))
        prior = tensors[f"prior.{number}"].numpy().astype(np.float32)
        chain.levels.append(Level(model.eval(), threshold, prior, epoch, rule, FlowHistory()))
    for routes, epoch, selected_on in content["heads"]:
        head = RouteHead(width, chain.num_classes, routes, len(content["levels"]), settings).to(device, dtype)
        head.load_state_dict(strip_prefix(f"head.{routes[0]}.", tensors))
        chain.heads |= dict.fromkeys(routes, TrainedHead(head.eval(), epoch, selected_on, {}))
    return chain, stored["meta"]
