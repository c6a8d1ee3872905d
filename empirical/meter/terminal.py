"""The measurement on the terminal: the gaps as a table, and what they mean in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from empirical.meter.summary import select
from empirical.meter.words import (
    headline,
    interval,
    number,
    overhead,
    pairing,
    percent,
    place,
    plain,
    settled,
    units,
    verdicts,
)


def show(summary: Mapping[str, Any], time: Mapping[str, float | None], console: Console) -> None:
    """Print the tables and the findings."""
    rows = summary["gaps"]
    for reward in dict.fromkeys(row["reward"] for row in rows):
        console.print(gap_table(summary, reward))
    if summary["limits"]:
        console.print(limit_table(summary))
    console.print(place(summary), highlight=False)
    for line in (*headline(summary), *verdicts(summary), pairing(summary), overhead(time)):
        console.print(f"- {line}", highlight=False)


def gap_table(summary: Mapping[str, Any], reward: str) -> Table:
    """ODE minus SDE of one reward."""
    rows, level = select(summary["gaps"], reward=reward), percent(summary["level"])
    table = Table(title=f"gap in {reward}: ODE minus SDE ({units(rows[0])})")
    for name in ("model", "guidance", "steps", "eta", "ODE", "SDE", "gap", level, f"all at once, {level}", "pairing"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        table.add_row(
            row["role"], f"{row['guidance']:g}", str(row["steps"]), f"{row['eta']:g}", plain(row["ode"]),
            plain(row["sde"]), number(row["value"]), interval(row["interval"]), interval(row["joint_interval"]),
            "" if row["reduction_x_T"] is None else f"x {plain(row['reduction_x_T'])}",
            style="bold" if settled(row) else None,
        )  # fmt: skip
    return table


def limit_table(summary: Mapping[str, Any]) -> Table:
    """What the gaps tend to as steps grow."""
    table = Table(title="gaps extrapolated to infinitely many steps")
    for name in ("reward", "of", "guidance", "eta", "limit", percent(summary["level"]), "truncation", "trusted"):
        table.add_column(name, justify="left" if name in ("reward", "of") else "right")
    for row in summary["limits"]:
        table.add_row(
            row["reward"], row["of"], f"{row['guidance']:g}", f"{row['eta']:g}", number(row["value"]),
            interval(row["interval"]), number(row["truncation"]["value"]), trusted(row),
        )  # fmt: skip
    return table


def trusted(row: Mapping[str, Any]) -> str:
    """Whether the limit's truncation is below its sampling error."""
    return {True: "yes", False: "no: more steps", None: "cannot tell"}[row["trusted"]]
