"""What the trainers' commands do with their settings: train, or show the plan, with clear words for what cannot be."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from analysis.command import console, graceful
from empirical.models import BUNDLED
from empirical.training.settings import Common

if TYPE_CHECKING:
    from empirical.training.run import Run, Say

Settings = TypeVar("Settings", bound=Common)


def read(
    kind: type[Settings], elsewhere: Mapping[str, Any], program: str, about: str | None, given: Sequence[str] | None
) -> Settings:
    """The settings of a command line; what it leaves open is ``kind``'s own for models that are brought along, and
    ``elsewhere``'s, where it names it, for all others.
    """  # noqa: D205
    found = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    found.add_argument("--model", default=kind.model)
    model = found.parse_known_args(given)[0].model
    default = kind() if model in BUNDLED else kind(**elsewhere)
    return tyro.cli(kind, default=default, args=given, prog=program, description=about)


def obey(config: Common, train: Callable[[Any, Say], Run]) -> None:
    """Do it, and end with a message instead of a traceback where the settings or the run are at fault."""
    output = console()
    try:
        with graceful(interrupts=False):
            if config.dry_run:
                from empirical.training.plan import show_plan

                show_plan(config, output)
            else:
                train(config, lambda text: output.print(text, highlight=False))
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; the same command goes on from the last checkpoint in {config.out}") from None
    except (ValueError, TypeError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
