"""The command of the figures about finite steps: what it writes and prints, from coarse runs."""

import io
from functools import cache

import numpy as np
import pytest
import tyro
from rich.console import Console

from analysis import command, plot_discretization
from analysis.figure import Settings, plain
from analysis.programs import budget

PROGRAMS = {program.name: program for program in plot_discretization.programs()}


@cache
def data(name):
    return plain(PROGRAMS[name].compute(Settings(quick=True), lambda fraction: None))


def printed(table):
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_command_writes_both_figures(tmp_path, monkeypatch):
    quick = [
        type(program)(name, lambda settings, progress, name=name: data(name), program.draw)
        for name, program in PROGRAMS.items()
    ]
    monkeypatch.setattr(plot_discretization, "programs", lambda: tuple(quick))
    monkeypatch.setattr(command, "console", lambda: Console(width=110, file=io.StringIO()))
    tyro.cli(plot_discretization.main, args=["--quick", "--out", str(tmp_path)])
    names = {f"{name}{suffix}" for name in PROGRAMS for suffix in (".png", ".pdf", ".json")}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_the_printed_budget_adds_up_and_agrees_with_simulation():
    said = printed(plot_discretization.budget_table(data("gap_budget")))
    rows = [row for row in said.splitlines() if " / " in row and "+" in row]
    assert len(rows) == len(budget.PAIRS)
    for row in rows:
        *terms, total, interval = (cell.strip() for cell in row.strip("│ ").split("│")[1:])
        assert sum(map(float, terms)) == pytest.approx(float(total), abs=3e-4)  # four digits each
        low, high = map(float, interval.split(" to "))
        assert abs(float(total) - (low + high) / 2) < 2 * (high - low)


def test_the_printed_orders_are_those_of_the_samplers_table():
    said = printed(plot_discretization.order_table(data("gap_budget")["family"]))
    orders = {row.split("│")[1].strip(): float(row.split("│")[-2]) for row in said.splitlines() if row.startswith("│")}
    expected = {"gddim": 1, "euler-maruyama": 1, "flow-grpo": 1, "edm": 1, "stochastic-heun": 2, "cps": 0}
    assert orders.keys() == expected.keys()
    np.testing.assert_allclose([orders[name] for name in expected], list(expected.values()), atol=0.12)
