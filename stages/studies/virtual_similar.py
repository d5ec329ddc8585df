"""The verification experiment: does a tail class suffer if images of a head class look like it?

A share of the head images is blended with tail images; labels and counts stay as they are. If likeness hurts, the tail
class loses accuracy as the share grows or as the weight of the head image falls, while the head class hardly moves.
"""

import argparse
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from longtail.core.errors import ConfigError
from longtail.data.blends import Blends, blend_pictures, find_class
from longtail.data.manifest import read_pixels, read_row
from longtail.data.params import SimilarParams
from longtail.data.splits import split_dataset
from longtail.methods.pretraining import METHODS
from stages.studies.page import Line, Page, Panel, line_figure
from stages.studies.published import SIMILAR_BY_HEAD_WEIGHT, SIMILAR_BY_SHARE
from stages.studies.runs import Run
from stages.studies.source import Source
from stages.studies.starts import start_settings

SHARE, HEAD_WEIGHT = 0.2, 0.2  # each is fixed while the other varies
PICTURES, SIDE = 6, 96


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--head", metavar="CLASS", help="the head class, by name or label; default: the first")
    parser.add_argument("--tail", metavar="CLASS", help="the tail class; default: the last")
    parser.add_argument(
        "--shares", type=float, nargs="*", default=list(SIMILAR_BY_SHARE), help="blended shares of the head images"
    )
    parser.add_argument(
        "--head-weights",
        type=float,
        nargs="*",
        default=list(SIMILAR_BY_HEAD_WEIGHT),
        help=f"weights of the head image, at a share of {SHARE}",
    )
    parser.add_argument(
        "--pretrain",
        nargs="+",
        default=["none", "rotation"],
        choices=["none", *METHODS.available()],
        metavar="METHOD",
        help="starts to compare: none, or a method of self-supervised pretraining; default: none rotation",
    )
    parser.set_defaults(starts=True)  # --set pretrain.KEY is for the runs that pretrain


def classes(options: argparse.Namespace, source: Source) -> tuple[int, int]:
    """Labels of the head and of the tail class.

    Raises:
        ConfigError: no such class, or twice the same.
    """
    names = source.class_names
    head = 0 if options.head is None else find_class(options.head, names, "--head")
    tail = len(names) - 1 if options.tail is None else find_class(options.tail, names, "--tail")
    if head == tail:
        raise ConfigError(f"--tail must be another class than --head, got {names[tail]}")
    return head, tail


def plan(options: argparse.Namespace, source: Source) -> list[Run]:
    """Both grids for each start and seed, each setting once."""
    head, tail = classes(options, source)
    for name, values in (("--shares", options.shares), ("--head-weights", options.head_weights)):
        outside = [value for value in values if not 0 <= value <= 1]
        if outside:
            raise ConfigError(f"{name} must be at least 0 and at most 1, got {outside[0]:g}")
    if not options.shares and not options.head_weights:
        raise ConfigError("--shares or --head-weights must have a value, got none")
    grid = [(share, HEAD_WEIGHT) for share in options.shares]
    grid += [(SHARE, weight) for weight in options.head_weights]
    runs = []
    for method in dict.fromkeys(options.pretrain):
        for seed in options.seeds:
            for share, weight in dict.fromkeys(untouched(*point) for point in grid):
                settings = {
                    "similar.head": head,
                    "similar.tail": tail,
                    "similar.share": share,
                    "similar.head_weight": weight,
                    **start_settings(method, options, source.params.get("dataset")),
                    "val_per_class": 0,
                    "seed": seed,
                    "split_seed": seed,
                }
                facts = {"pretrain": method, "share": share, "head_weight": weight, "seed": seed}
                runs.append(Run(f"{method}-share{share:g}-weight{weight:g}-seed{seed}", settings, facts))
    return runs


def untouched(share: float, weight: float) -> tuple[float, float]:
    """The setting, with one form for all that change no image."""
    return (0.0, 1.0) if share == 0 or weight == 1 else (share, weight)


def table(runs: Sequence[Run], results: Mapping[str, Mapping[str, Any]], source: Source) -> pd.DataFrame:
    """One row per run: its facts, accuracies in percent, and the cosine of the class means of both classes."""
    rows = []
    for run in runs:
        result = results[run.name]
        head, tail = (run.settings[f"similar.{name}"] for name in ("head", "tail"))
        rows.append({**run.facts, "head": source.class_names[head], "tail": source.class_names[tail]})
        rows[-1] |= {"head_accuracy": result["classes"][head], "tail_accuracy": result["classes"][tail]}
        rows[-1] |= {"top1": result["all"], "cosine": result["head_tail_cosine"]}
    return pd.DataFrame(rows)


def write(page: Page, found: pd.DataFrame, options: argparse.Namespace, source: Source) -> None:
    """The figure, the blended images and the page."""
    page.add_text(str(__doc__).split("\n\n")[0])
    page.add_figure(figure(found), "accuracy of the tail and of the head class; dashed: published, ResNet-32, CIFAR-10")
    page.add_figure(cosine_figure(found), "cosine of the mean training features of the two classes")
    for label, x in (("share", "share"), ("head weight", "head_weight")):
        for method, rows in found.groupby("pretrain", sort=False):
            page.add_text(trend(str(method), label, select(rows, x), x))
    share = max((share for share in found["share"] if share > 0), default=0.0)
    if share:
        picture, caption = blended_pictures(options, source, share)
        page.add_picture(picture, caption)
    page.add_heading("All runs")
    page.add_table(found, 3)


def select(found: pd.DataFrame, x: str) -> pd.DataFrame:
    """The rows of one of the two grids: ``share`` or ``head_weight``."""
    fixed = found["head_weight"] == HEAD_WEIGHT if x == "share" else found["share"] == SHARE
    return found[fixed | (found["share"] == 0)]


def figure(found: pd.DataFrame) -> str:
    """Head and tail accuracy over share and over the weight of the tail image."""
    panels = []
    grids: tuple[tuple[str, str, dict[float, tuple[float, float]]], ...] = (
        ("share", "share of blended head images", SIMILAR_BY_SHARE),
        ("head_weight", "weight of the tail image in a blend", SIMILAR_BY_HEAD_WEIGHT),
    )
    for x, title, published in grids:
        lines = []
        for method, rows in found.groupby("pretrain", sort=False):
            chosen = select(rows, x)
            values = chosen["share"] if x == "share" else 1 - chosen["head_weight"]
            start = "" if method == "none" else f" from {method}"
            lines += [Line.over_seeds(f"tail{start}", values, chosen["tail_accuracy"])]
            lines += [Line.over_seeds(f"head{start}", values, chosen["head_accuracy"])]
        at = np.array([value if x == "share" else 1 - value for value in published])
        for name, column in (("tail", 1), ("head", 0)):
            values_of = np.array([pair[column] for pair in published.values()])
            lines.append(Line(f"{name}, published", at, values_of, dashed=True))
        panels.append(Panel(title, lines))
    return line_figure(panels, "", "accuracy, %")


def cosine_figure(found: pd.DataFrame) -> str:
    """The cosine of the two class means over the share."""
    lines = [
        Line.over_seeds(f"pretrain {method}", select(rows, "share")["share"], select(rows, "share")["cosine"])
        for method, rows in found.groupby("pretrain", sort=False)
    ]
    panel = Panel("likeness of the two classes", lines)
    return line_figure([panel], "share of blended head images", "cosine", percent=False)


def trend(method: str, label: str, rows: pd.DataFrame, x: str) -> str:
    """A sentence about the first and the last point of a grid."""
    means = rows.groupby(x)[["head_accuracy", "tail_accuracy"]].mean()
    if x == "head_weight":
        means = means[::-1]
    if len(means) < 2:
        return f"pretrain {method}, {label}: a single point, so no trend."
    change = means.iloc[-1] - means.iloc[0]
    return (
        f"pretrain {method}, {label} {means.index[0]:g} to {means.index[-1]:g}: the tail class changes by "
        f"{change['tail_accuracy']:+.1f} points, the head class by {change['head_accuracy']:+.1f}."
    )


def blended_pictures(options: argparse.Namespace, source: Source, share: float) -> tuple[bytes, str]:
    """Some head images, the tail images that they are blended with, and the blends, as PNG, with a caption."""
    head, tail = classes(options, source)
    manifest, seed = source.manifest, options.seeds[0]
    split = split_dataset(
        manifest,
        source.split_params(val_per_class=0, split_seed=seed),
        SimilarParams(head=head, tail=tail, share=share, head_weight=HEAD_WEIGHT),
    )
    triples = list(blend_triples(source, split.blends))
    sheet = Image.new("RGB", (len(triples) * (SIDE + 8) + 8, 3 * (SIDE + 8) + 8), "white")
    for column, triple in enumerate(triples):
        for row, picture in enumerate(triple):
            place = (8 + column * (SIDE + 8), 8 + row * (SIDE + 8))
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), place)
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    names = source.class_names
    return stream.getvalue(), (
        f"top: images of {names[head]}; middle: the images of {names[tail]} that they are blended with; bottom: the "
        f"blends, {HEAD_WEIGHT:g} of the first and {1 - HEAD_WEIGHT:g} of the second. Their label stays {names[head]}."
    )


def blend_triples(source: Source, blends: Blends) -> Iterator[tuple[Image.Image, ...]]:
    """The first pictures with their partners and their blends."""
    manifest = source.manifest
    pixels = read_pixels(source.folder) if manifest.info.storage == "memory" else None

    def read(row: int) -> Image.Image:
        if pixels is not None:
            return Image.fromarray(pixels[row].squeeze())
        return read_row(manifest, source.params["data_root"], row)

    for image, partner in zip(blends.image[:PICTURES].tolist(), blends.partner[:PICTURES].tolist(), strict=True):
        pair = (read(image), read(partner))
        yield (*pair, blend_pictures(*pair, blends.head_weight))
