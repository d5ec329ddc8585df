"""Bring the source images into one common form: ``data/prepared``."""

from pathlib import Path

from longtail.data.prepare import prepare
from longtail.data.sources.base import Source
from stages.common import PREPARED, RAW, params, run


def main() -> None:
    p = params()
    info = prepare(
        _load(p.dataset, p.data_root, {k: v for k, v in vars(p.lists).items() if v is not None}, p.relabel),
        PREPARED,
        dataset=p.dataset,
        image_size=None if p.image_size == "auto" else p.image_size,
        storage=p.storage,
        workers=p.runtime.workers,
        progress=p.runtime.progress,
    )
    print(f"{info.dataset}: {info.num_classes} classes, {info.image_size} x {info.image_size} pixels, {info.storage}")


def _load(dataset: str, data_root: str | None, lists: dict[str, str], relabel: bool) -> Source:
    if dataset == "digits":
        from longtail.data.sources import digits

        return digits.load()
    if dataset in ("cifar10", "cifar100"):
        from longtail.data.sources import cifar

        if data_root is None:
            RAW.mkdir(parents=True, exist_ok=True)
        return cifar.load(dataset, RAW if data_root is None else Path(data_root))
    assert data_root is not None  # params() refuses a folder dataset without it
    root = Path(data_root)
    if dataset == "image_folder":
        from longtail.data.sources import folder

        return folder.load(root)
    from longtail.data.sources import file_lists

    return file_lists.load(root, {part: root / name for part, name in lists.items()}, relabel)


if __name__ == "__main__":
    run(main)
