"""Numbers and findings in words, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from empirical.meter.plan import MODEL
from empirical.meter.summary import select

Row = Mapping[str, Any]


def number(value: float | None) -> str:
    """Three significant digits with a sign; a dash for what is unknown."""
    return "–" if value is None else f"{value:+.3g}".replace("-", "−")


def plain(value: float | None) -> str:
    """Three significant digits."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def interval(ends: tuple[float, float] | list[float] | None) -> str:
    """Both ends of an interval."""
    return "–" if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def percent(level: float) -> str:
    """A level of confidence."""
    return f"{100 * level:g} %"


def settled(row: Row) -> bool:
    """Whether the interval lies on one side of 0."""
    ends = row["interval"]
    return ends is not None and (ends[0] > 0 or ends[1] < 0)


def at_most_steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows at the guidance in use and the most steps: what the findings are about."""
    return select(rows, guidance=max(row["guidance"] for row in rows), steps=max(row["steps"] for row in rows))


def place(summary: Row) -> str:
    """Where the findings were measured."""
    row = at_most_steps(summary["gaps"])[0]
    return f"At {row['steps']} steps and guidance {row['guidance']:g}, with {percent(summary['level'])} intervals:"


def headline(summary: Row) -> list[str]:
    """The findings about the model: for each reward, the etas that agree in one sentence."""
    rows = select(at_most_steps(summary["gaps"]), role=MODEL)
    return [
        f"{reward}: {finding} at {_listed(same)}."
        for reward in dict.fromkeys(row["reward"] for row in rows)
        for finding, same in _grouped(select(rows, reward=reward), _finding)
    ]


def verdicts(summary: Row) -> list[str]:
    """What became of gap and rewards since the reference: whether a gap shrank because both improved."""
    rows = at_most_steps(summary["verdicts"]) if summary["verdicts"] else []
    return [
        f"{reward}, against the reference: {finding}, at eta = {', '.join(format(row['eta'], 'g') for row in same)}."
        for reward in dict.fromkeys(row["reward"] for row in rows)
        for finding, same in _grouped(
            select(rows, reward=reward), lambda row: f"{row['rewards']}; the gap {row['gap']}"
        )
    ]


def _finding(row: Row) -> str:
    if row["interval"] is None:
        return "one pair, which has no interval, has ODE minus SDE"
    if not settled(row):
        return "no gap is established between ODE and SDE"
    return f"the ODE earns {'more' if row['value'] > 0 else 'less'} than the SDE"


def _listed(rows: list[Row]) -> str:
    parts = [f"eta = {row['eta']:g}, {number(row['value'])} ({interval(row['interval'])})" for row in rows]
    return "; ".join(parts)


def _grouped(rows: list[Row], key: Callable[[Row], str]) -> list[tuple[str, list[Row]]]:
    """Rows by what is said of them, in the order in which it is said first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.items())


def units(row: Row) -> str:
    """What the interval is about."""
    if row["over"] == "samples":
        return f"{row['units']} samples of one prompt: the intervals speak of this prompt alone"
    if row["units"] == 1:
        return "a single pair: no interval"
    return f"{row['units']} prompts, each a unit of its own: the intervals speak of prompts like these"


def pairing(summary: Row) -> str:
    """What sharing x_T was worth, measured beside expected."""
    shown = select(at_most_steps(summary["gaps"]), role=MODEL, reward=summary["gaps"][0]["reward"])
    if shown[0]["reduction_x_T"] is None:
        return "What sharing x_T is worth needs two samples of a prompt, or pairs that differ, to be measured."
    parts = []
    for row in shown:
        expected = row["reduction_predicted"]
        beside = "" if expected is None else f" (theory on N(0, 1): {plain(expected)})"
        parts.append(f"{plain(row['reduction_x_T'])} at eta = {row['eta']:g}{beside}")
    text = f"Sharing x_T divides the variance within prompts by {'; '.join(parts)}."
    if any(row["eta"] >= 1 and (row["reduction_predicted"] or 9) < 1.5 for row in shown):
        text += " From eta = 1 on theory expects little of it: the noise of the SDE has replaced x_T."
    return text


def overhead(time: Mapping[str, float | None]) -> str:
    """What the measurement cost beyond the networks."""
    if not time["networks"]:
        return "Nothing was left to run: every pair was there already."
    rewards = (time["rewards"] or 0) / time["networks"]
    return (
        f"{plain(time['seconds'])} s, of which networks {plain(time['networks'])} s; beyond their forward passes "
        f"{100 * (time['overhead_ratio'] or 0):.1f} %, and rewards {100 * rewards:.1f} %."
    )
