"""Timing of alternatives side by side, and Markdown tables of the results."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Timed(NamedTuple):
    """Seconds of each repetition, and the result of the first one."""

    seconds: list[float]
    result: Any


def alternate(repeats: int, *tasks: Callable[[], Any]) -> list[Timed]:
    """Run the tasks alternately, ``repeats`` times, so that a slow moment of the machine affects all of them."""
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
    """Format as median (smallest-largest), with three digits."""
    return f"{_number(statistics.median(values))} ({_number(min(values))}-{_number(max(values))})"


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Return the quotient for each repetition."""
    return [top / bottom for top, bottom in zip(numerator, denominator, strict=True)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
