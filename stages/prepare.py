"""Bring the source images into one common form: ``data/prepared``."""

import importlib

from longtail.data.params import DatasetParams
from longtail.data.prepare import prepare
from longtail.data.prepared_features import prepare_features
from longtail.data.sources import SOURCES
from longtail.data.sources.base import FeatureSource
from longtail.methods.pretraining import WEIGHTS
from stages.context import Context, run
from stages.paths import PREPARED, RAW


def main() -> None:
    context = Context("prepare")
    params = context.top_level(DatasetParams)
    source = SOURCES.get(params.dataset).load(params, RAW)
    if isinstance(source, FeatureSource):
        info = prepare_features(source, PREPARED, dataset=params.dataset)
        rows, width = source.features.shape
        print(f"{info.dataset}: {info.num_classes} classes, {rows} rows of {width} features")
        return
    later = context.content.get("pretrain", {}).get("method") == WEIGHTS
    image_size = None if params.image_size == "auto" else params.image_size
    if later and params.files_at_network_size and source.images is None:
        image_size = importlib.import_module("stages.network_size").network_size(context.content)
    info = prepare(
        source,
        PREPARED,
        dataset=params.dataset,
        image_size=image_size,
        storage=params.storage,
        workers=context.runtime.workers,
        progress=context.runtime.progress,
        resize_later=later,
        sixteen_bit=params.sixteen_bit,
        resize=params.resize,
        bad_images=params.bad_images,
    )
    size = f"{info.image_size} x {info.image_size} pixels"
    if later and info.storage == "paths":
        size = "resized when they are read"
    print(f"{info.dataset}: {info.num_classes} classes, {size}, {info.storage}")


if __name__ == "__main__":
    run(main)
