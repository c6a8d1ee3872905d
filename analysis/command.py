"""How a command of this project starts and ends: a light start, and a message in place of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

Quick = Annotated[bool, tyro.conf.arg(help="A coarse run, below 30 seconds.")]
Out = Annotated[Path, tyro.conf.arg(help="Folder of the files; made if it is not there.")]
Seed = Annotated[int, tyro.conf.arg(help="Of everything random.")]
Device = Annotated[str, tyro.conf.arg(help="Torch device of every simulation.")]
Only = Annotated[str | None, tyro.conf.arg(help="One figure alone, by its name.")]

INTERRUPTED = 130  # the exit status of a shell's own commands after SIGINT
BROKEN_PIPE = 141  # and after SIGPIPE


def run(main: Callable[..., Any], prog: str) -> None:
    """Run a command: parse its arguments, call ``main``, and end with a message where it cannot go on.

    A reader that closes the pipe ends the command in silence with status 141, Ctrl-C with one line and status 130, and
    a full disk or a file that is not what it should be with the system's own words and status 1.
    """
    # Before torch is loaded: its OpenMP threads otherwise spin between operations, and on a machine with other work to
    # do they starve the simulation's own threads (ten times the time for small runs).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        tyro.cli(main, prog=prog)
        sys.stdout.flush()
    except BrokenPipeError:
        leave_pipe()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        raise SystemExit(f"error: {describe(error)}") from None


def leave_pipe() -> None:
    """End without a word after the reader of the output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered still goes somewhere at exit
    raise SystemExit(BROKEN_PIPE)


def describe(error: OSError) -> str:
    """The system's words for an error, with the files it is about."""
    files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{error.strerror or error}" + (f": {files}" if files else "")
