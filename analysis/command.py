"""How a command of this project starts and ends: quickly, and with a message in place of a traceback.

The modules of commands import what is heavy (torch, matplotlib, diffusers) inside their ``main``, so that ``--help``
answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

Quick = Annotated[bool, tyro.conf.arg(help="Run coarsely, in less than 30 seconds.")]
Out = Annotated[Path, tyro.conf.arg(help="Folder of the files; it is made if it is not there.")]
Seed = Annotated[int, tyro.conf.arg(help="Seed of everything random.")]
Device = Annotated[str, tyro.conf.arg(help="Torch device of every simulation.")]
Only = Annotated[str | None, tyro.conf.arg(help="Write this figure alone; an unknown name prints the known ones.")]

INTERRUPTED = 130  # the exit status of a shell's own commands after SIGINT
BROKEN_PIPE = 141  # and after SIGPIPE


def run(main: Callable[..., Any], prog: str) -> None:
    """Parse the command line and call ``main``; see ``quieten`` and ``graceful``."""
    quieten()
    with graceful():
        tyro.cli(main, prog=prog)


def quieten() -> None:
    """Set what libraries read from the environment when they are loaded, unless the user has set it.

    OpenMP's idle threads sleep: they otherwise spin between operations, and on a machine with other work to do they
    starve the simulation's own threads (ten times the time for small runs). transformers does not announce at every
    start that it reads images by PIL.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@contextmanager
def graceful(interrupts: bool = True) -> Iterator[None]:
    """End a command with a message where it cannot go on.

    A reader that closes the pipe ends it in silence with status 141, Ctrl-C with one line and status 130, and a full
    disk or a file that is not what it should be with the system's own words and status 1.

    Args:
        interrupts: whether Ctrl-C is met here; False where the caller has more to say about it.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        raise SystemExit(BROKEN_PIPE) from None
    except KeyboardInterrupt:
        if not interrupts:
            raise
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        _drop_output()
        raise SystemExit(f"error: {describe(error)}") from None


def describe(error: OSError) -> str:
    """The system's words for an error, with the files it is about."""
    files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{error.strerror or error}" + (f": {files}" if files else "")


def console() -> Console:
    """Where a command prints: the terminal as it is, 110 columns anywhere else."""
    return Console(width=None if sys.stdout.isatty() else 110)


def _drop_output() -> None:
    """Send what standard output still holds nowhere, where it cannot be written: Python would complain at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):  # a test's own stdout has no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
