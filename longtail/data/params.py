"""Parameters of the dataset and of its long-tailed split."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from longtail.core.errors import ConfigError
from longtail.core.params import Auto, Group, group, key, only_with, show
from longtail.data.sources import SOURCES


@dataclass(frozen=True, kw_only=True)
class ListParams(Group):
    """List files of ``dataset: file_lists``. Each line is ``relative/path label``; plain text or ``.gz``."""

    path: ClassVar[str] = "lists"

    train: str | None = key(
        None, "list (`dataset: table`: table) of the training images; absolute, or relative to `data_root`"
    )
    val: str | None = key(None, "list or table of the validation images (optional)")
    test: str | None = key(None, "list or table of the test images")


@dataclass(frozen=True, kw_only=True)
class ColumnParams(Group):
    """Names of the columns of ``dataset: table``."""

    path: str = key("path", "column of the image files, relative to `data_root`")  # type: ignore[misc]
    label: str = key("label", "column of the labels: names, or whole numbers from 0")
    split: str | None = key(
        "split",
        "column of the parts: train, test, and val, valid or validation. Without such a column, or with null, all rows "
        "are split by `split_seed`",
    )
    group: str | None = key(
        "group", "column of what must stay in one part, such as a camera site or a patient; null ignores it"
    )

    @classmethod
    def place(cls) -> str:
        return "columns"

    def check(self) -> None:
        given: dict[str, str] = {}
        for name, column in vars(self).items():
            if column is not None:
                other = given.setdefault(column, name)
                self.require(name, other == name, f"another column than columns.{other}")


def _ignores_data_root(params: "DatasetParams") -> str:
    return "" if SOURCES.get(params.dataset).reads_data_root else f"dataset: {params.dataset}"


def _without_images(params: "DatasetParams") -> str:
    return "" if SOURCES.get(params.dataset).has_images else f"dataset: {params.dataset}"


def _without_files(params: "DatasetParams") -> str:
    entry = SOURCES.get(params.dataset)
    return "" if entry.has_images and entry.image_shape is None else f"dataset: {params.dataset}"


@dataclass(frozen=True, kw_only=True)
class DatasetParams(Group):
    """Which images, and in what form later stages see them."""

    dataset: str = key(
        "digits",
        "where the images come from; `features`: rows of features in place of images",
        choices=SOURCES.available,
    )
    data_root: str | None = key(
        None,
        "folder of the images; for `features` the folder with `features_train.h5` and `features_test.h5`; for CIFAR "
        "the folder of torchvision's archive (default `data/raw`). Make it absolute, or queued runs will not find it",
        unused=_ignores_data_root,
    )
    lists: ListParams = group(ListParams, unused=only_with(dataset=("file_lists", "table")))
    table: str | None = key(
        None,
        "CSV, TSV, Parquet or JSON lines with one row per image; absolute, or relative to `data_root`",
        unused=only_with(dataset="table"),
    )
    columns: ColumnParams = group(ColumnParams, unused=only_with(dataset="table"))
    image_size: int | Auto = key(
        "auto",
        "side in pixels. auto: the model's with `pretrain.method: weights`; otherwise the source's own if all images "
        "are squares of one size up to 64, or else 64 in memory and 224 from files",
        low=4,
        high=4096,
        unused=_without_images,
    )
    storage: Literal["auto", "memory", "paths"] = key(
        "auto",
        "`memory`: one uint8 array; `paths`: files that loader workers decode. auto: paths with `pretrain.method: "
        "weights`; otherwise memory if the median shorter side is at most 128 pixels and all images fit in 1 GiB",
        unused=_without_images,
    )
    sixteen_bit: Literal["scale", "window", "refuse"] = key(
        "scale",
        "gray images of more than 8 bits. `scale`: 16 bits are divided by 257; integers and floats are read as 0 to 1 "
        "(floats only), 0 to 255 or 0 to 65535, whichever they fit first. `window`: the smallest value of each image "
        "becomes 0, the largest 255. `refuse`: they are bad images",
        unused=_without_files,
    )
    resize: Literal["squash", "crop", "pad"] = key(
        "squash",
        "how an image that is no square becomes one. `squash`: both sides are resized alone; `crop`: its center square "
        "is used; `pad`: white is added at the shorter side. Files that stay files are cropped or padded before their "
        "augmentation; `squash` leaves them to `crop` and the augmentation",
        unused=_without_files,
    )
    bad_images: Literal["refuse", "skip"] = key(
        "refuse",
        "files that cannot be decoded. `refuse`: an error names them; `skip`: they are left out, with a remark. Both "
        "list all of them in `data/prepared/bad_images.csv`",
        unused=_without_files,
    )
    relabel: bool = key(
        False,
        "number the numeric labels that occur 0 to C-1; without it, gaps are refused",
        unused=only_with(dataset=("file_lists", "table", "features")),
    )

    @property
    def files_at_network_size(self) -> bool:
        """Whether files are stored in memory at the size of the network, if its weights are given."""
        return self.storage == "memory" and self.image_size == "auto"

    def modules(self) -> tuple[str, ...]:
        return (SOURCES.module(self.dataset),)

    def check(self) -> None:
        source = SOURCES.get(self.dataset)
        if source.needs_data_root and self.data_root is None:
            what = "images" if source.has_images else "features"
            raise ConfigError(f"data_root must be the folder of the {what} with dataset: {self.dataset}, got null")
        lists = [name for name, file in vars(self.lists).items() if file is not None]
        if self.dataset == "table" and (self.table is not None or not lists):
            self.require(
                "table", self.table is not None, "a file with dataset: table (or set lists.train and lists.test)"
            )
            self.require("table", not lists, f"null with lists.{lists[0]}" if lists else "")
        elif self.dataset in ("file_lists", "table"):
            what = "list" if self.dataset == "file_lists" else "table"
            for name in ("train", "test"):
                self.lists.require(name, name in lists, f"a {what} file with dataset: {self.dataset}")


def _explain_imbalance(value: Any) -> str:
    meaning = "imb_factor is n_max / n_min, the largest class over the smallest"
    if isinstance(value, float) and 0 < value < 1:
        return f"{meaning}; papers that write {value:g} for n_min / n_max mean imb_factor: {1 / value:g}"
    return meaning


@dataclass(frozen=True, kw_only=True)
class SplitParams(Group):
    """How the long-tailed split is drawn."""

    imb_type: Literal["exp", "step", "natural", "counts"] = key(
        "exp",
        "`exp`: n_k = n_max * rho^(-k/(C-1)), truncated; `step`: half the classes n_max, half n_max / rho; "
        "`natural`: the counts as they are; `counts`: those of `class_counts`",
    )
    imb_factor: float = key(
        100.0,
        "rho = n_max / n_min",
        low=1,
        high=1e6,
        unused=only_with(imb_type=("exp", "step")),
        hint=_explain_imbalance,
    )
    class_counts: list[int] | dict[str, int] | None = key(
        None,
        "`counts`: training images of each class, a list in label order or `{name: count}`; a class that is not named "
        "keeps all its images",
        unused=only_with(imb_type="counts"),
    )
    test_share: float = key(
        0.2,
        "share of each class that becomes the test part, at least one image of a class with two; for a dataset that is "
        "not split",
        above=0,
        below=1,
    )
    val_per_class: int = key(
        10,
        "images per class that are held out for selection *before* subsampling, at most a fifth of the class. 0: the "
        "published split of LDAM-DRW, index for index. A val part of the dataset wins",
        low=0,
    )
    split_seed: int = key(0, "seed of the split", low=0, high=2**32 - 1)

    def check(self) -> None:
        given = self.class_counts is not None
        self.require(
            "class_counts", given or self.imb_type != "counts", "the counts of the classes with imb_type: counts"
        )


@dataclass(frozen=True, kw_only=True)
class SimilarParams(Group):
    """Virtual similar samples: images of a head class that are blended with images of a tail class."""

    path: ClassVar[str] = "similar"

    head: int | str | None = key(None, "class, by name or label, whose images are blended; null: none are")
    tail: int | str | None = key(None, "class that they are blended with; its own images stay as they are")
    share: float = key(0.2, "share of the head images that are blended", low=0, high=1, published="0.1 to 0.5")
    head_weight: float = key(
        0.2, "weight of the head image in a blend; 1 leaves it as it is", low=0, high=1, published="0.2"
    )

    def check(self) -> None:
        for name, other in (("head", "tail"), ("tail", "head")):
            both = getattr(self, name) is not None or getattr(self, other) is None
            self.require(name, both, f"a class with similar.{other}: {show(getattr(self, other))}")

    def inactive(self) -> str:
        return "head: null" if self.head is None else ""
