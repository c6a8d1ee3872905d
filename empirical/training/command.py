"""What the trainers' commands do with their settings: train, or show the plan, with clear words for what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis.job import console
from empirical.training.plan import show_plan
from empirical.training.run import Run, Say
from empirical.training.settings import Common


def obey(config: Common, train: Callable[[Any, Say], Run]) -> None:
    """Do it, and end with a message instead of a traceback where the settings or the run are at fault."""
    output = console()
    try:
        if config.dry_run:
            show_plan(config, output)
        else:
            train(config, lambda text: output.print(text, highlight=False))
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; the same command goes on from the last checkpoint in {config.out}") from None
    except (ValueError, TypeError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
