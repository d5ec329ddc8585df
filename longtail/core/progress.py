"""Progress of long work: a bar on a terminal, plain lines with the remaining time in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LINE_EVERY = 5.0


class Progress:
    """Counts finished units of one piece of work.

    Args:
        total: units in all.
        label: what is being done.
        mode: ``auto`` (a bar if stderr is a terminal, else lines), ``bar``, ``lines`` or ``off``.
        done: units finished before, by a run that is being resumed.
    """

    def __init__(self, total: int, label: str, mode: str = "auto", done: int = 0) -> None:
        if mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "lines"
        self._total, self._label, self._done, self._resumed = total, label, done, done
        self._lines = mode == "lines"
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc=label, leave=True) if mode == "bar" else None

    def advance(self, units: int = 1, note: str = "") -> None:
        """Report ``units`` more as finished; ``note`` (such as the loss) stands behind the count."""
        self._done += units
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(units)
        now = time.monotonic()
        if self._lines and (now - self._last_line >= LINE_EVERY or self._done == self._total):
            self._last_line = now
            per_unit = (now - self._start) / max(1, self._done - self._resumed)
            left = per_unit * (self._total - self._done)
            tail = f", {note}" if note else ""
            print(f"{self._label}: {self._done}/{self._total}{tail}, {left:.0f} s left", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
