"""A bar on the terminal: images made, images to make, time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from empirical.meter.run import Advance


class Bars:
    """Makes the bars of a measurement, on a terminal only.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        """Nothing is shown yet."""
        self._console = console

    @contextmanager
    def __call__(self, images: int, label: str) -> Iterator[Advance]:
        """A bar of ``images`` images while the block runs."""
        columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TextColumn("images"))
        bars = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, transient=True,
            disable=not self._console.is_terminal,
        )  # fmt: skip
        with bars:
            task = bars.add_task(label, total=images)
            yield lambda made: bars.advance(task, made)
