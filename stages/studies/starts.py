"""The starts that studies compare: no pretraining, or a method of self-supervised pretraining (SSP)."""

import argparse
from typing import Any

from stages.recipe import flat, read_recipe
from stages.studies.published import ARCHITECTURES

PUBLISHED = "rotation"  # the method of the published recipes


def start_settings(method: str, options: argparse.Namespace, dataset: str | None) -> dict[str, Any]:
    """The parameters of one start, by full name.

    Rotation on CIFAR has those of the published recipe, everything else the defaults. ``--set pretrain.KEY`` changes
    them.
    """
    if method == "none":
        return {"pretrain.method": "none"}
    settings = {"pretrain.method": method}
    if method == PUBLISHED and dataset in ARCHITECTURES:
        settings |= flat({"pretrain": read_recipe(f"{dataset}_lt_ssp_ce")["params"]["pretrain"]})
    return settings | options.pretrain_settings
