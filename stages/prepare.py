"""Bring the source images into one common form: ``data/prepared``."""

from longtail.data.params import DatasetParams
from longtail.data.prepare import prepare
from longtail.data.sources import SOURCES
from stages.context import Context, run
from stages.paths import PREPARED, RAW


def main() -> None:
    context = Context("prepare")
    params = context.top_level(DatasetParams)
    info = prepare(
        SOURCES.get(params.dataset).load(params, RAW),
        PREPARED,
        dataset=params.dataset,
        image_size=None if params.image_size == "auto" else params.image_size,
        storage=params.storage,
        workers=context.runtime.workers,
        progress=context.runtime.progress,
    )
    print(f"{info.dataset}: {info.num_classes} classes, {info.image_size} x {info.image_size} pixels, {info.storage}")


if __name__ == "__main__":
    run(main)
