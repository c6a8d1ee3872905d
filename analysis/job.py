"""What the commands that write figures share: the checks of their arguments, and the run with its bars."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from analysis.figure import Program, Settings
from gapbound.simulate import usable_device


def figures(
    programs: Sequence[Program],
    out: Path,
    only: str | None,
    output: Console,
    quick: bool,
    seed: int,
    device: str = "cpu",
) -> dict[str, dict[str, Any]]:
    """Check the arguments of a command, then write its figures, or the one named; their data by name.

    Raises:
        SystemExit: an argument that cannot be: says which, and what can.
    """
    settings = Settings(quick=quick, seed=checked_seed(seed), device=checked_device(device))
    return run(checked_programs(programs, only), checked_folder(out), settings, output)


def run(programs: Sequence[Program], out: Path, settings: Settings, output: Console) -> dict[str, dict[str, Any]]:
    """Write every figure; a bar for each on a terminal, a line for each anywhere."""
    found, start = {}, time.perf_counter()
    columns = (TextColumn("{task.description:>22}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=output, transient=True, disable=not output.is_terminal) as bars:
        for program in programs:
            task = bars.add_task(program.name, total=1.0)
            began = time.perf_counter()
            found[program.name] = program.write(
                out, settings, lambda fraction, task=task: bars.update(task, completed=fraction)
            )
            bars.remove_task(task)
            output.print(f"{program.name:>22}  {time.perf_counter() - began:6.1f} s", highlight=False)
    output.print(f"{len(found)} figures in {out} after {time.perf_counter() - start:.0f} s", highlight=False)
    return found


def checked_programs(programs: Sequence[Program], only: str | None) -> Sequence[Program]:
    """All figures, or the one named."""
    chosen = [program for program in programs if only in (None, program.name)]
    if not chosen:
        raise SystemExit(f"--only: unknown figure {only!r}; known: {names(programs)}")
    return chosen


def names(programs: Sequence[Program]) -> str:
    """Of the figures, for a message."""
    return ", ".join(program.name for program in programs)


def checked_seed(seed: int) -> int:
    """A seed that numpy and torch take."""
    if seed < 0:
        raise SystemExit(f"--seed must be 0 or more, got {seed}")
    return seed


def checked_device(device: str) -> str:
    """A device that torch can use here."""
    try:
        usable_device(device)
    except ValueError as error:
        raise SystemExit(f"--{error}") from None
    return device


def checked_folder(out: Path) -> Path:
    """``out``, made if need be, after a trial file: better now than after the first figure."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise SystemExit(f"--out: cannot write into {out} ({error.strerror}); name another folder") from None
    return out
