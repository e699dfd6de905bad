"""What the user sees while a run goes on: one progress line and a line for every finished cell.

Libraries log through Python, C++ and file descriptors of their own, so everything written to stdout and stderr while
`captured` lasts goes to a log file, and the progress goes to a copy of the terminal.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PLAIN_EVERY = 15.0  # seconds between progress lines where there is no terminal to redraw


class Terminal:
    """The user's terminal: `say` a line, `progress` through cells, `captured` while noisy libraries run."""

    def __init__(self) -> None:
        self._console = Console(file=os.fdopen(os.dup(sys.__stderr__.fileno()), "w"), highlight=False)
        self._progress: Progress | None = None
        self._task = None
        self._where, self._last = "", time.monotonic()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(escape(line), soft_wrap=True)
        self._last = time.monotonic()

    @contextmanager
    def captured(self, log: Path) -> Iterator[None]:
        """Send stdout and stderr, of this process and its libraries, to the end of a log file."""
        log.parent.mkdir(parents=True, exist_ok=True)
        saved = [os.dup(1), os.dup(2)]
        with log.open("a", encoding="utf-8") as file:
            try:
                _flush()
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                yield
            finally:
                _flush()
                for number, descriptor in zip((1, 2), saved, strict=True):
                    os.dup2(descriptor, number)
                    os.close(descriptor)

    @contextmanager
    def progress(self, cells: int) -> Iterator[None]:
        """Show a bar over `cells` units of work while it lasts."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=16), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as self._progress:
            self._task = self._progress.add_task("starting", total=cells)
            try:
                yield
            finally:
                self._progress = None

    def at(self, where: str, doing: str, done: int = 0) -> None:
        """Say where the run is: what is worked on, doing what, with `done` cells behind it."""
        if self._progress is not None and self._console.is_terminal:
            text = f"{where}: {doing}"
            room = max(20, self._console.width - 34)
            text = text if len(text) <= room else text[: room - 1] + "…"
            self._progress.update(self._task, description=escape(text), completed=done)
        elif where != self._where or time.monotonic() - self._last >= PLAIN_EVERY:
            self.say(f"  {where}: {doing}")
        self._where = where


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
