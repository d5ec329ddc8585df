"""What all stages share: where artifacts lie, the parameters, and how errors reach the user."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from longtail.core.config import Params, load_params
from longtail.core.errors import LongtailError

PREPARED = Path("data/prepared")
RAW = Path("data/raw")
SPLIT = Path("data/split.csv")
SPLIT_COLUMNS = ("part", "index", "label")
CLASS_COUNTS = Path("data/class_counts.csv")
PRETRAINED = Path("models/pretrained.pt")
BACKBONE = Path("models/backbone.pt")
PRETRAIN_CURVES = Path("metrics/curves/pretrain.tsv")
CURVES = Path("metrics/curves/train_backbone.tsv")
FEATURES = Path("features")
HEAD = FEATURES / "head.h5"
HEADS = Path("models/heads")
DLSA_MODEL = Path("models/dlsa.pt")
DLSA_ROUTING = Path("models/dlsa_routing.h5")
IPDPP_MODEL = Path("models/ipdpp.pt")
IPDPP_SELECTION = Path("models/ipdpp_selection.h5")
IPDPP_SUBSET = Path("data/ipdpp_subset.csv")
IPDPP_CURVES = Path("metrics/curves/finetune_ipdpp.tsv")
IPDPP_IMAGES = Path("metrics/ipdpp_images.png")
PREDICTIONS = Path("metrics/predictions")
COST = Path("metrics/cost")
SCRATCH = Path(".scratch")


def params() -> Params:
    """The checked parameters of the working folder."""
    return load_params("params.yaml")


def features_file(part: str) -> Path:
    return FEATURES / f"features_{part}.h5"


def advice(error: LongtailError) -> str:
    """How to make the file that an error is about; empty if no stage makes it."""
    maker = getattr(error, "maker", None)
    if maker is None:
        return ""
    if getattr(error, "missing", False):
        return f"make it with `dvc repro {maker}`"
    return f"make it again with `dvc repro -f {maker}`"


def run(stage: Callable[[], None]) -> None:
    """Run a stage; an error that the user can mend becomes one line on stderr and exit status 1.

    Remarks of the library (its log messages) go to stdout.
    """
    remarks = logging.StreamHandler(sys.stdout)
    remarks.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("longtail")
    logger.addHandler(remarks)
    logger.setLevel(logging.INFO)
    try:
        stage()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last checkpoint, if the stage keeps any")
    except LongtailError as error:
        sentence = "; ".join(part for part in (" ".join(str(error).split()), advice(error)) if part)
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(1)
