"""Timing of alternatives side by side, and Markdown tables of what came out."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Timed(NamedTuple):
    """Seconds of each repetition and the result of the first."""

    seconds: list[float]
    result: Any


def alternate(repeats: int, *tasks: Callable[[], Any]) -> list[Timed]:
    """Run the tasks in turn, ``repeats`` times over, so that a slow moment of the machine meets all of them."""
    timed = [Timed([], None) for _ in tasks]
    for repeat in range(repeats):
        for position, task in enumerate(tasks):
            start = time.perf_counter()
            result = task()
            timed[position].seconds.append(time.perf_counter() - start)
            if repeat == 0:
                timed[position] = timed[position]._replace(result=result)
    return timed


def spread(values: Sequence[float]) -> str:
    """Median (smallest-largest), three digits."""
    return f"{_number(statistics.median(values))} ({_number(min(values))}-{_number(max(values))})"


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Quotients, repetition by repetition."""
    return [above / below for above, below in zip(numerator, denominator, strict=True)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
