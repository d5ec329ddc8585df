"""Paths of the artifacts in the repository."""

from pathlib import Path

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
PREPARED = Path("data/prepared")
SPLIT = Path("data/split.csv")
SPLIT_COLUMNS = ("part", "index", "label")
BLEND_COLUMNS = ("partner", "head_weight")
CLASS_COUNTS = Path("data/class_counts.csv")
IPDPP_SUBSET = Path("data/ipdpp_subset.csv")
FEATURES = Path("features")
HEAD = FEATURES / "head.h5"
PRETRAINED = Path("models/pretrained.safetensors")
BACKBONE = Path("models/backbone.safetensors")
MODELS = Path("models")
HEADS = MODELS / "heads"
DLSA_MODEL = Path("models/dlsa.safetensors")
DLSA_ROUTING = MODELS / "dlsa_routing.h5"
IPDPP_MODEL = Path("models/ipdpp.safetensors")
IPDPP_SELECTION = MODELS / "ipdpp_selection.h5"
METRICS = Path("metrics")
PREDICTIONS = METRICS / "predictions"
PLOTS = METRICS / "plots"
CURVES = METRICS / "curves"
COST = METRICS / "cost"
IPDPP_IMAGES = METRICS / "ipdpp_images.png"
SCRATCH = Path(".scratch")
FINGERPRINTS = Path(".fingerprints")
