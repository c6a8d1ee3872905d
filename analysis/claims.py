"""The ledger of claims: every statement of the paper, the theory and this project with its verdict and evidence.

``python -m analysis.claims`` computes all of them, prints a table for each theme, and exits with an error if a verdict
is not the expected one, either way: a claim that starts to hold is news too. ``--refute`` shows instead that every
row can fail: it gives each claim's checks perturbed statements, which they must reject. ``analysis.ledger`` holds the
claims.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from analysis import command
from analysis.files import write_text
from analysis.ledger import CLAIMS, refutation
from analysis.ledger.claim import Claim, Row, run
from analysis.ledger.refutation import Refutation
from analysis.ledger.report import latex_table, plain, summary, table

Found = TypeVar("Found")


def main(
    as_json: Annotated[bool, tyro.conf.arg(name="json", help="Print a list of rows as JSON, nothing else.")] = False,
    only: Annotated[
        str | None, tyro.conf.arg(help="Claims whose id or theme contains this (or matches it, with *).")
    ] = None,
    tex: Annotated[Path | None, tyro.conf.arg(help="Also write the table as LaTeX into this file.")] = None,
    refute: Annotated[
        bool, tyro.conf.arg(help="Give the checks perturbed statements instead, and print those they do not reject.")
    ] = False,
) -> None:
    """Compute every claim's verdict; exits with an error if one is not expected."""
    chosen = checked_claims(only)
    if tex is not None:
        checked_file(tex, only, refute)
    if refute:
        refute_all(chosen, as_json)
        return
    start = time.perf_counter()
    rows = list(computed(chosen, run, Console(stderr=True)))
    if tex is not None:
        write_text(tex, latex_table(rows))
    if as_json:
        print(json.dumps([plain(row) for row in rows], indent=1, allow_nan=False))
    else:
        show(rows, command.console(), time.perf_counter() - start)
    unexpected = [row for row in rows if not row.as_expected]
    if unexpected:
        raise SystemExit("unexpected: " + "; ".join(describe(row) for row in unexpected))


def refute_all(claims: Sequence[Claim], as_json: bool) -> None:
    """Evaluate every perturbed statement; exits with an error if one is not rejected."""
    start = time.perf_counter()
    found = [one for group in computed(claims, refutation.refute, Console(stderr=True)) for one in group]
    surviving = [one for one in found if not one.works]
    if as_json:
        print(json.dumps([refutation.plain(one) for one in found], indent=1, allow_nan=False))
    else:
        console = command.console()
        if surviving:
            console.print(refutation.table(surviving))
        seconds = time.perf_counter() - start
        console.print(f"{refutation.summary(claims, found)}; {seconds:.0f} s", highlight=False)
    if surviving:
        raise SystemExit("not refuted: " + "; ".join(describe_surviving(one) for one in surviving))


def describe_surviving(one: Refutation) -> str:
    """A perturbed statement that the claim's checks do not reject."""
    reason = f" ({one.error})" if one.error else ""
    return f"{one.claim.id}, {one.perturbed.statement!r} is {one.verdict}{reason}"


def computed(claims: Sequence[Claim], compute: Callable[[Claim], Found], console: Console) -> Iterator[Found]:
    """What is computed of every claim, one after another, with a bar on a terminal."""
    columns = (TextColumn("{task.description:>50}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=len(claims))
        for claim in claims:
            bars.update(task, description=claim.id)
            yield compute(claim)
            bars.advance(task)


def show(rows: Sequence[Row], console: Console, seconds: float) -> None:
    """A table for each theme, then one line."""
    for theme, group in itertools.groupby(rows, key=lambda row: row.claim.theme):
        console.print(table(theme, list(group)))
    console.print(f"{summary(rows)}; {seconds:.0f} s", highlight=False)


def describe(row: Row) -> str:
    """What is wrong with a row."""
    reason = f" ({row.error})" if row.error else ""
    return f"{row.claim.id} is {row.verdict}{reason}, {row.claim.expected} was expected"


def checked_claims(only: str | None) -> tuple[Claim, ...]:
    """All claims, or those that the pattern names."""
    if only is None:
        return CLAIMS
    pattern = f"*{only.lower()}*"
    chosen = tuple(c for c in CLAIMS if any(fnmatch.fnmatchcase(name.lower(), pattern) for name in (c.id, c.theme)))
    if not chosen:
        themes = ", ".join(dict.fromkeys(claim.theme for claim in CLAIMS))
        raise SystemExit(f"--only: no claim's id or theme matches {only!r}; themes: {themes}")
    return chosen


def checked_file(tex: Path, only: str | None, refute: bool = False) -> None:
    """Refuse, before the work, a file that cannot be written or a table that would be a part of the ledger."""
    if only is not None or refute:
        raise SystemExit("--tex writes the whole ledger; leave --only and --refute out")
    if tex.is_dir() or not tex.parent.is_dir() or not os.access(tex.parent, os.W_OK):
        raise SystemExit(f"--tex: cannot write {tex}; name a file in a folder that exists")


if __name__ == "__main__":
    command.run(main, "python -m analysis.claims")
