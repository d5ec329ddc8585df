"""What a study writes: ``metrics/studies/NAME.csv``, ``NAME.svg`` and ``NAME.html``, a page that stands alone."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longtail.artifacts.atomic import atomic_open
from longtail.artifacts.tables import write_csv
from stages.paths import METRICS

FOLDER = METRICS / "studies"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c1c1c; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
figure { margin: 1rem 0; background: #fff; } figure svg, figure img { max-width: 100%; height: auto; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #ccc; white-space: nowrap; }
code { font-size: 0.85rem; } pre { overflow-x: auto; font-size: 0.85rem; }
@media (prefers-color-scheme: dark) { body { color: #e4e4e4; background: #16181b; } th, td { border-color: #444; } }
@media print { body { max-width: none; } }
"""


@dataclass(frozen=True)
class Line:
    """One curve: x and y (n,), and perhaps the standard deviation of y."""

    label: str
    x: np.ndarray
    y: np.ndarray
    spread: np.ndarray | None = None
    dashed: bool = False

    @classmethod
    def over_seeds(cls, label: str, x: Any, y: Any) -> "Line":
        """Mean and standard deviation of the values with the same x, in ascending order."""
        groups = pd.DataFrame({"x": np.asarray(x, float), "y": np.asarray(y, float)}).groupby("x")["y"]
        spread = groups.std(ddof=1).to_numpy()
        return cls(label, np.array(groups.mean().index), groups.mean().to_numpy(), np.nan_to_num(spread))


@dataclass(frozen=True)
class Panel:
    """One plot of a figure."""

    title: str
    lines: Sequence[Line]


def line_figure(panels: Sequence[Panel], x_label: str, y_label: str, percent: bool = True) -> str:
    """Panels side by side, as SVG. ``percent`` shows 0 to 100.

    A label has one color in all panels. The same numbers give the same bytes.
    """
    plot = _pyplot()
    figure, axes = plot.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.2), squeeze=False)
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    for axis, panel in zip(axes[0], panels, strict=True):
        for line in panel.lines:
            color = f"C{labels.index(line.label) % 10}"
            spread = line.spread if line.spread is not None and line.spread.any() else None
            style = "--" if line.dashed else "-"
            look: dict[str, Any] = {"ms": 3, "lw": 1.2, "capsize": 2, "color": color, "label": _plain(line.label)}
            axis.errorbar(line.x, line.y, yerr=spread, fmt=f"o{style}", **look)
        axis.set_title(_plain(panel.title), fontsize=10)
        axis.set_xlabel(x_label, fontsize=8)
        if percent:
            axis.set_ylim(0, 103)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(y_label, fontsize=8)
    handles = {line: handle for axis in axes[0] for handle, line in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, fontsize=7, loc="lower center", ncols=min(4, len(handles)))
    figure.subplots_adjust(bottom=0.3)
    return _svg(figure, (0, 0.1, 1, 1))


def matrix_figure(panels: Sequence[tuple[str, np.ndarray]], names: Sequence[str], x_label: str, y_label: str) -> str:
    """Square matrices side by side as heat maps, as SVG."""
    plot = _pyplot()
    figure, axes = plot.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.2), squeeze=False)
    for axis, (title, values) in zip(axes[0], panels, strict=True):
        image = axis.imshow(values, cmap="viridis", interpolation="nearest")
        figure.colorbar(image, ax=axis, fraction=0.046)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x_label, fontsize=8)
        if len(names) <= 25:
            shown = [_plain(name) for name in names]
            axis.set_xticks(range(len(names)), shown, rotation=90, fontsize=7)
            axis.set_yticks(range(len(names)), shown, fontsize=7)
    axes[0][0].set_ylabel(y_label, fontsize=8)
    return _svg(figure)


def scatter_figure(panels: Sequence[tuple[str, np.ndarray, np.ndarray]], y_label: str) -> str:
    """Scatter plots side by side (label of x, x, y), as SVG."""
    plot = _pyplot()
    figure, axes = plot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.2), squeeze=False)
    for axis, (title, x, y) in zip(axes[0], panels, strict=True):
        axis.scatter(x, y, s=12, alpha=0.7)
        axis.set_xlabel(title, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(y_label, fontsize=8)
    return _svg(figure)


def _pyplot() -> Any:
    """matplotlib without a display. It takes a second to import."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "longtail"
    import matplotlib.pyplot

    return matplotlib.pyplot


def _plain(text: str) -> str:
    """The text as it is; matplotlib would read what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _svg(figure: Any, rectangle: tuple[float, float, float, float] = (0, 0, 1, 1)) -> str:
    figure.tight_layout(rect=rectangle)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    _pyplot().close(figure)
    text = stream.getvalue()
    return text[text.index("<svg") :]


@dataclass
class Page:
    """A page with text, figures and tables.

    Args:
        name: of the study, and of its files.
        title: heading.
        command: the command that makes it.
    """

    name: str
    title: str
    command: str
    _parts: list[str] = field(default_factory=list)
    _figures: list[str] = field(default_factory=list)

    def add_text(self, text: str) -> None:
        """A paragraph of plain text."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def add_heading(self, text: str) -> None:
        """A heading."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def add_figure(self, svg: str, caption: str) -> None:
        """A figure; the first also becomes ``NAME.svg``."""
        self._figures.append(svg)
        self._parts.append(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def add_picture(self, png: bytes, caption: str) -> None:
        """A picture."""
        text = html.escape(caption)
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        self._parts.append(f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>')

    def add_table(self, table: pd.DataFrame, decimals: int = 1) -> None:
        """A table, numbers rounded."""
        shown = table.map(lambda v: "-" if pd.isna(v) else f"{v:.{decimals}f}" if isinstance(v, float) else v)
        self._parts.append(f'<div class="table">{shown.to_html(index=False, border=0)}</div>')

    def write(self, tables: dict[str, pd.DataFrame]) -> list[Path]:
        """Write the tables, the first figure and the page. Returns their paths."""
        paths = []
        for name, table in tables.items():
            paths.append(FOLDER / f"{name}.csv")
            write_csv(paths[-1], table)
        if self._figures:
            paths.append(FOLDER / f"{self.name}.svg")
            with atomic_open(paths[-1]) as file:
                file.write(self._figures[0])
        paths.append(FOLDER / f"{self.name}.html")
        title, body = html.escape(self.title), "\n".join(self._parts)
        with atomic_open(paths[-1]) as file:
            file.write(
                f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
                '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                f"<style>{_STYLE}</style></head>\n"
                f"<body><h1>{title}</h1>\n<pre>{html.escape(self.command)}</pre>\n{body}\n</body></html>\n"
            )
        return paths
