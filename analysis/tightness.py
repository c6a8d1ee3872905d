"""How tight the bounds are on thousands of random questions, and whether any is ever violated.

``python -m analysis.tightness`` measures the 10,000 cases of a distribution of ``analysis.cases`` (an hour or two on
two cores), prints for every regime and bound the median and the 95th percentile of bound / |gap|, and writes figure and
table to ``figures/tightness.*`` (``--distribution hard``: ``figures/tightness_hard.*``). It can be interrupted:
finished chunks lie in ``build/tightness`` and are not repeated. The exit status is 1 if a bound is below the exact
error or gap, or NaN.

The headline is B1 to B4 on mixtures. For one Gaussian B5 is the gap itself, and for a mixture it embeds the exact
solver of the ODE: both are listed apart.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process for each core

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console
from rich.progress import track
from rich.table import Table

import gapbound as gb
from analysis import cases, command, job
from analysis.bound_looks import EXACT, LABELS, LOOKS
from analysis.figure import Settings, plain, save
from analysis.files import write_text
from analysis.measured import LEAST_SD, SHARE, measure
from analysis.style import PAGE, REFERENCE, panels, paper, shared_legend, title

CHUNK = 100
REGIMES = ("eta < 1", "eta >= 1", "windows")
LEVELS = np.arange(0, 101, 2) / 100  # of the curves
NAMES = {"ordinary": "tightness", "hard": "tightness_hard"}
DEPENDS_ON = (
    "_arrays", "_reward", "affine", "cells", "estimate_value", "eta", "expectation", "gap", "gaussian", "law", "march",
    "mixture", "monotone", "process", "quantiles", "reward", "schedule",
)  # fmt: skip
TARGETS = {
    "eta < 1": (2.0, 6.0),
    "eta >= 1": (1.6, 5.0),
}  # asked of the best bound on mixtures: median, p95

Row = dict[str, Any]


def main(
    n: Annotated[int, tyro.conf.arg(name="cases", help="How many: the first of the fixed distribution.")] = 10_000,
    distribution: Annotated[Literal["ordinary", "hard"], tyro.conf.arg(help="Which cases.")] = "ordinary",
    jobs: Annotated[int, tyro.conf.arg(help="Processes.")] = os.cpu_count() or 1,
    out: Annotated[Path, tyro.conf.arg(help="Folder of tightness.json.")] = Path("figures"),
    work: Annotated[Path, tyro.conf.arg(help="Folder of the finished chunks.")] = Path("build/tightness"),
) -> None:
    """Measure bound / |gap| over random cases."""
    if n < 1 or jobs < 1:
        raise SystemExit(f"--cases and --jobs must be 1 or more, got {n} and {jobs}")
    console = command.console()
    rows = measured(n, jobs, work, console, distribution)
    table = {"distribution": distribution, **summary(rows)}
    report(table, console)
    folder = job.checked_folder(out)
    with paper():
        save(draw(plain(table)), table, NAMES[distribution], folder, Settings(seed=cases.SEED))
    if table["violations"] or table["undefined"]:
        raise SystemExit(1)


def measured(n: int, jobs: int, work: Path, console: Console, distribution: str = "ordinary") -> list[Row]:
    """The rows of the first n cases, from finished chunks where there are some."""
    folder = work / f"{distribution}-{fingerprint()}"
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, n, CHUNK)
    with ProcessPoolExecutor(jobs) as pool:
        chunks: Iterator[list[Row]] = pool.map(
            _chunk, *([each] * len(starts) for each in (folder, distribution)), starts, [n] * len(starts)
        )
        done = track(chunks, "cases", len(starts), console=console, disable=not console.is_terminal)
        return [row for chunk in done for row in chunk]


def fingerprint() -> str:
    """Hash of every source file that a row depends on: chunks of another version are not reused."""
    package = Path(gb.__file__).parent
    modules = [package / f"{name}.py" for name in DEPENDS_ON] + sorted((package / "bounds").glob("*.py"))
    sources = [*modules, Path(cases.__file__), Path(inspect.getfile(measure))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def _chunk(folder: Path, distribution: str, start: int, n: int) -> list[Row]:
    path = folder / f"{start:06d}-{min(start + CHUNK, n):06d}.json"
    if not path.exists():
        rows = [row(cases.case(index, distribution)) for index in range(start, min(start + CHUNK, n))]
        write_text(path, json.dumps(rows))
    found: list[Row] = json.loads(path.read_text())
    return found


def row(case: cases.Case) -> Row:
    """One case in units of sd(r): the gap, every bound on it, which are violated, NaN, or replaced by the range."""
    found = measure(case)
    unit = max(found.sd, LEAST_SD)
    scaled = {name: limit.gap / unit for name, limit in found.limits.items()}
    return {
        "index": case.index,
        "regime": case.regime,
        "modes": len(case.target.weights) if isinstance(case.target, gb.GaussianMixture) else 1,
        "gap": found.gap / unit,
        "bounds": {name: value if math.isfinite(value) else None for name, value in scaled.items()},
        "winner": found.found.winner,
        "violated": [part for name in found.limits for part in found.violated(name)],
        "undefined": [part for name in found.limits for part in found.undefined(name)],
        "replaced": found.replaced,
        "vacuous": [name for name, limit in found.limits.items() if limit.vacuous],
    }


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The table: per regime and kind of target, for every bound, ratios to the gap where it is large enough."""
    faults = {
        key: [{"index": row["index"], key: row[key]} for row in rows if row[key]] for key in ("violated", "undefined")
    }
    groups = []
    for regime in REGIMES:
        for modes, several in (("any", None), ("one", False), ("several", True)):
            chosen = [r for r in rows if r["regime"] == regime and several in (None, r["modes"] > 1)]
            groups.append({"regime": regime, "modes": modes, **_group(chosen)})
    replaced: dict[str, int] = {}
    for row in rows:
        for name, reason in row["replaced"].items():
            key = f"{name}: {re.sub(r'[0-9]+', 'N', reason)}"
            replaced[key] = replaced.get(key, 0) + 1
    return {
        "cases": len(rows),
        "share": SHARE,
        "violations": faults["violated"],
        "undefined": faults["undefined"],
        "replaced by the trivial bound": replaced,
        "groups": groups,
    }


def _group(rows: Sequence[Row]) -> dict[str, Any]:
    large = [row for row in rows if abs(row["gap"]) > SHARE]
    small = [row for row in rows if abs(row["gap"]) <= SHARE]
    names = list(dict.fromkeys(name for row in rows for name in row["bounds"]))
    winners = [row["winner"] for row in large]
    general = [row["bounds"].get("best of B1 to B4") for row in large]
    within = [value is not None and value <= 10 * abs(row["gap"]) for value, row in zip(general, large, strict=True)]
    return {
        "large": len(large),
        "small": len(small),
        "ratio": {name: _quantiles(large, name, lambda row: abs(row["gap"])) for name in names},
        "curves": {name: _curve(large, name) for name in names},
        "small gaps, bound / sd(r)": {name: _quantiles(small, name, lambda row: 1.0) for name in names},
        "B1 to B4 within 10 times": sum(within),
        "vacuous": {name: sum(name in row["vacuous"] for row in rows) for name in names},
        "winners": {name: winners.count(name) for name in sorted(set(winners))},
    }


def _quantiles(rows: Sequence[Row], name: str, unit: Callable[[Row], float]) -> dict[str, Any]:
    """Median and 95th percentile of bound / unit where the bound applies; None for an infinite one."""
    values = [_value(row, name) / unit(row) for row in rows if name in row["bounds"]]
    return {"applies": len(values), **dict(zip(("median", "p95"), _at(values, (0.5, 0.95)), strict=True))}


def _curve(rows: Sequence[Row], name: str) -> list[float | None]:
    """Bound / |gap| at ``LEVELS`` of all cases; infinite where the bound does not apply."""
    return _at([_value(row, name) / abs(row["gap"]) if name in row["bounds"] else math.inf for row in rows], LEVELS)


def _value(row: Row, name: str) -> float:
    found = row["bounds"][name]
    return math.inf if found is None else float(found)


def _at(values: Sequence[float], levels: Any) -> list[float | None]:
    """Quantiles, as the order statistic above: no arithmetic with infinities, for which None stands."""
    if not values:
        return [None for _ in levels]
    found = np.quantile(values, levels, method="higher")
    return [float(value) if math.isfinite(value) else None for value in found]


def draw(table: dict[str, Any]) -> Figure:
    """Share of the mixtures with bound / |gap| below x, for every regime."""
    figure, axes = panels(1, len(REGIMES), PAGE, 2.6, sharey=True)
    groups = [group for group in table["groups"] if group["modes"] == "several"]
    for letter, panel, group in zip("abc", axes[0], groups, strict=True):
        for name, curve in group["curves"].items():
            panel.plot([np.inf if ratio is None else ratio for ratio in curve], LEVELS, **_line(name))
        panel.set(xscale="log", xlim=(0.9, 200), ylim=(0, 1), xlabel="bound / |gap|")
        title(panel, letter, f"{group['regime']}: {group['large']} mixtures")
    axes[0, 0].set_ylabel("share of mixtures")
    entries = {"best of B1 to B4": "smallest of B1-B4", "best": "smallest of all", **LABELS}
    handles = [Line2D([], [], label=label, **_line(name)) for name, label in entries.items()]
    shared_legend(figure, handles, columns=4)
    return figure


def _line(name: str) -> dict[str, Any]:
    if name in LOOKS:
        return LOOKS[name].line
    return dict(EXACT) if name == "best" else {"color": REFERENCE, "linewidth": 1.8, "linestyle": "--"}


def report(table: dict[str, Any], console: Console) -> None:
    """Print the tables that are not empty, and the verdict."""
    for group in table["groups"]:
        if group["large"]:
            console.print(_grid(group))
    for group in table["groups"]:
        if group["modes"] == "several" and group["large"]:
            general, every = group["ratio"]["best of B1 to B4"], group["ratio"]["best"]
            console.print(
                f"{group['regime']}, mixtures: B1 to B4 / |gap| has median {_short(general['median'])} and 95th "
                f"percentile {_short(general['p95'])}, within 10 times in {group['B1 to B4 within 10 times']} of "
                f"{group['large']}; with B5, which embeds the exact solver: {_short(every['median'])} and "
                f"{_short(every['p95'])}"
            )
    for reason, count in table["replaced by the trivial bound"].items():
        console.print(f"replaced by the trivial bound in {count} cases: {reason}")
    console.print(f"{len(table['undefined'])} of {table['cases']} cases have a NaN", table["undefined"] or "")
    console.print(f"{len(table['violations'])} of {table['cases']} cases violate a bound", table["violations"] or "")


def _short(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3g}"


def _grid(group: dict[str, Any]) -> Table:
    modes = {"any": "any number of modes", "one": "one Gaussian", "several": "several modes"}[group["modes"]]
    count = f"|gap| > {SHARE:g} sd(r) in {group['large']} cases, below in {group['small']}"
    grid = Table(title=f"{group['regime']}, {modes}: {count}", title_justify="left")
    for heading in ("bound", "applies", "bound/|gap|: median", "95th percentile", "below: median of bound/sd(r)"):
        grid.add_column(heading, justify="left" if heading == "bound" else "right")
    for name, found in group["ratio"].items():
        rest = group["small gaps, bound / sd(r)"][name]
        cells = (found["median"], found["p95"], rest["median"])
        grid.add_row(name, str(found["applies"]), *("-" if cell is None else f"{cell:.3g}" for cell in cells))
    return grid


if __name__ == "__main__":
    command.run(main, "python -m analysis.tightness")
