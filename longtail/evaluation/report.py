"""The table METHOD x (all, many, medium, few, macro, ECE), as plain text."""

from collections.abc import Collection, Mapping
from pathlib import Path

from longtail.artifacts.digest import Scalar
from longtail.artifacts.tables import read_json

COLUMNS = {"all": "all", "many": "many", "medium": "medium", "few": "few", "macro": "macro", "ece": "ECE"}
_LOWER_IS_BETTER = {"ece"}


def format_table(
    summary: Mapping[str, Mapping[str, float | int]],
    uncalibrated: Collection[str] = (),
    size: Mapping[str, Scalar] | None = None,
) -> str:
    """Aligned text table of ``{METHOD: {all, many, ...}}`` in percent, in the order given.

    Marks: ``+`` the best value of a column; ``*`` a method that was selected on the test split; ``~`` the ECE of an
    uncalibrated method; ``-`` an empty group. Methods with ``*`` and values with ``~`` do not compete for ``+``.

    Args:
        summary: values of each method, in percent.
        uncalibrated: methods whose scores are not the logits of a likelihood.
        size: the ``backbone`` of all methods, and with its own head its ``parameters`` and its multiply-accumulates
            per image (``macs``), and perhaps where its pretrained ``weights`` come from, what they were
            ``trained_on`` and their ``license``. Printed below the table if given.
    """
    competing = {name: row for name, row in summary.items() if not row.get("selected_on_test")}
    best = {}
    for key in COLUMNS:
        rivals = [name for name in competing if not (key == "ece" and name in uncalibrated)]
        values = [competing[name][key] for name in rivals if key in competing[name]]
        if values:
            best[key] = min(values) if key in _LOWER_IS_BETTER else max(values)

    lines = [["METHOD", *(f"{title} " for title in COLUMNS.values())]]
    for name, row in summary.items():
        cells = [name if name in competing else f"{name} *"]
        for key in COLUMNS:
            if key not in row:
                cells.append("- ")
                continue
            prefix = "~" if key == "ece" and name in uncalibrated else ""
            mark = "+" if name in competing and not prefix and row[key] == best[key] else " "
            cells.append(f"{prefix}{row[key]:.2f}{mark}")
        lines.append(cells)

    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS) + 1)]
    text = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "-" * (sum(widths) + 2 * len(COLUMNS)))
    notes = ["percent; + best of its column"]
    if any(key not in row for row in summary.values() for key in COLUMNS):
        notes.append("- no class in this group")
    if any(name in uncalibrated for name in summary):
        notes.append("~ of scores that are not a likelihood")
    text.append("; ".join(notes))
    if size:
        counts = f"{size['parameters']:,} parameters, {size['macs']:,} multiply-accumulates per image"
        text.append(f"{size['backbone']} with its head: {counts}")
        if "weights" in size:
            text.append(
                f"pretrained weights: {size['weights']}; trained on {size['trained_on']}; license {size['license']}"
            )
    if len(competing) < len(summary):
        text.append("* selected on the test split: optimistic, not compared for +")
    return "\n".join(text)


def read_uncalibrated(details_path: Path) -> set[str]:
    """Methods that ``details.json`` marks as uncalibrated; none if the file is missing."""
    if not details_path.exists():
        return set()
    details = read_json(details_path, made_by="evaluate")
    return {name for name, row in details.items() if row.get("uncalibrated")}


def read_size(selection_path: Path) -> dict[str, Scalar]:
    """The entry of the backbone in ``selection.json``; empty if the file or the entry is missing."""
    if not selection_path.exists():
        return {}
    return read_json(selection_path, made_by="evaluate").get("backbone", {})
