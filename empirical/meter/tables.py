"""The tables of the page, as HTML: what the summary holds, a number a cell, scrollable where a screen is narrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from empirical.meter.plan import MODEL
from empirical.meter.summary import select
from empirical.meter.terminal import trusted
from empirical.meter.words import interval, number, percent, plain, settled

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]

PLACE: tuple[Column, ...] = (
    ("reward", lambda row: row["reward"]),
    ("guidance", lambda row: f"{row['guidance']:g}"),
    ("steps", lambda row: str(row["steps"])),
    ("eta", lambda row: f"{row['eta']:g}"),
)


def table(caption: str, columns: Sequence[Column], rows: Iterable[Row], mark: bool = True) -> str:
    """A table with a caption; where ``mark``, a row whose interval excludes 0 is bold, and says so to readers."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name, _ in columns)
    body = []
    for row in rows:
        bold = mark and "interval" in row and settled(row)
        kind = ' class="settled"' if bold else ""
        note = '<span class="hidden"> (interval excludes 0)</span>' if bold else ""
        first, *rest = [escape(cell(row)) for _, cell in columns]
        body.append(f'<tr{kind}><th scope="row">{first}{note}</th>' + "".join(f"<td>{c}</td>" for c in rest) + "</tr>")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption, quote=True)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def folded(title: str, content: str) -> str:
    """Content that opens on a click; on paper it is open."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def estimates(summary: Row) -> tuple[Column, ...]:
    """Value and interval, as most tables end."""
    return (
        ("estimate", lambda row: number(row["value"])),
        (percent(summary["level"]), lambda row: interval(row["interval"])),
    )


def gaps(summary: Row) -> str:
    """ODE minus SDE everywhere."""
    columns = (
        *PLACE,
        ("of", lambda row: row["role"]),
        ("ODE", lambda row: plain(row["ode"])),
        ("SDE", lambda row: plain(row["sde"])),
        *estimates(summary),
        ("all at once", lambda row: interval(row["joint_interval"])),
    )
    caption = "Gap: mean reward of the ODE minus that of the SDE"
    used = select(summary["gaps"], role=MODEL, guidance=max(row["guidance"] for row in summary["gaps"]))
    rest = [row for row in summary["gaps"] if row not in used]
    more = folded("At other guidance, and of the reference", table(caption, columns, rest)) if rest else ""
    return table(caption, columns, used) + more


def pairing(summary: Row) -> str:
    """What sharing x_T and prompts was worth."""
    columns = (
        ("of", lambda row: row["role"]),
        *PLACE,
        ("by x_T", lambda row: plain(row["reduction_x_T"])),
        ("theory", lambda row: plain(row["reduction_predicted"])),
        ("by prompts", lambda row: plain(row["reduction_prompts"])),
    )
    caption = "Variance of independent runs over that of pairs"
    return folded("What pairing was worth", table(caption, columns, summary["gaps"], mark=False))


def limits(summary: Row) -> str:
    """Limits, with the integrator's part at each step count."""
    if not summary["limits"]:
        return ""
    steps = list(summary["limits"][0]["integrator"])

    def part(n: str) -> Callable[[Row], str]:
        return lambda row: number(row["integrator"][n]["value"])

    columns = (
        PLACE[0], ("of", lambda row: row["of"]), PLACE[1], PLACE[3], *estimates(summary),
        *((f"integrator at {n}", part(n)) for n in steps),
        ("truncation", lambda row: number(row["truncation"]["value"])), ("trusted", trusted),
    )  # fmt: skip
    caption = "Gap at infinitely many steps, and what finite steps add"
    return folded("Limits in numbers", table(caption, columns, summary["limits"]))


def parts(summary: Row) -> str:
    """What guidance and training add."""
    found = ""
    if summary["guidance"]:
        caption = "Guidance's part: the gap at the guidance in use less that at guidance 1"
        found += folded(caption, table(caption, (*PLACE, *estimates(summary)), summary["guidance"]))
    if summary["induced"]:
        caption = "Induced gap: that of the model less that of the reference, at equal steps"
        found += folded(caption, table(caption, (*PLACE, *estimates(summary)), summary["induced"]))
    return found


def verdicts(summary: Row) -> str:
    """Whether both rewards rose."""
    if not summary["verdicts"]:
        return ""
    columns = (
        *PLACE,
        ("ODE, change", lambda row: number(row["ode_change"]["value"])),
        ("SDE, change", lambda row: number(row["sde_change"]["value"])),
        ("rewards", lambda row: row["rewards"]),
        ("gap", lambda row: row["gap"]),
    )
    return folded("Changes in numbers", table("Against the reference", columns, summary["verdicts"]))


def diversity(summary: Row) -> str:
    """Spread of the images of one prompt."""
    if not summary["diversity"]:
        return ""
    columns = (
        ("of", lambda row: row["role"]), *PLACE[1:3],
        ("run", lambda row: f"SDE {row['eta']:g}" if row["eta"] else "ODE"),
        ("diversity", lambda row: plain(row["value"])),
        (percent(summary["level"]), lambda row: interval(row["interval"])),
        ("ODE minus SDE", lambda row: interval(row["ode_minus_sde"]["interval"]) if row["eta"] else "–"),
    )  # fmt: skip
    return folded("Diversity in numbers", table("Diversity", columns, summary["diversity"], mark=False))
