"""How tight the bounds are on thousands of random questions, and whether any is ever violated.

``python -m analysis.tightness`` measures the 10,000 cases of ``analysis.cases`` (about 20 minutes on two cores), prints
for every regime and bound the median and the 95th percentile of bound / |gap|, and writes the table with its numbers to
``figures/tightness.json``. It can be interrupted: finished chunks lie in ``build/tightness`` and are not repeated. The
exit status is 1 if a bound is below the exact error or gap.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process for each core

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

import gapbound as gb
from analysis import cases
from analysis.figure import Settings, write_json
from gapbound import bounds
from gapbound.bounds.best import combined
from gapbound.bounds.problem import problem
from gapbound.bounds.spread import variance
from gapbound.monotone import sampler_errors

SHARE = 0.02  # of sd(r): smaller gaps are counted apart
CHUNK = 100
ROUNDING = 1e-9  # relative, of a bound
FLOOR = 1e-12  # of sd(r): what double precision leaves of an exact 0
GENERAL = ("chi_square", "total_variation", "wasserstein", "duhamel")  # any mixture in any dimension: B1 to B4
REGIMES = ("eta < 1", "eta >= 1", "windows")
TARGETS = {"eta < 1": (2.0, 6.0), "eta >= 1": (1.6, 5.0)}  # median and 95th percentile asked of the best bound

Row = dict[str, Any]


def main(
    n: Annotated[int, tyro.conf.arg(name="cases", help="How many: the first of the fixed distribution.")] = 10_000,
    jobs: Annotated[int, tyro.conf.arg(help="Processes.")] = os.cpu_count() or 1,
    out: Annotated[Path, tyro.conf.arg(help="Folder of tightness.json.")] = Path("figures"),
    work: Annotated[Path, tyro.conf.arg(help="Folder of the finished chunks.")] = Path("build/tightness"),
) -> None:
    """Measure bound / |gap| over random cases."""
    if n < 1 or jobs < 1:
        raise SystemExit(f"--cases and --jobs must be 1 or more, got {n} and {jobs}")
    console = Console(width=None if sys.stdout.isatty() else 110)
    rows = measured(n, jobs, work, console)
    table = summary(rows)
    report(table, console)
    out.mkdir(parents=True, exist_ok=True)
    write_json(table, "tightness", out, Settings(seed=cases.SEED))
    if table["violations"]:
        raise SystemExit(1)


def measured(n: int, jobs: int, work: Path, console: Console) -> list[Row]:
    """The rows of the first n cases, from finished chunks where there are some."""
    folder = work / fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, n, CHUNK)
    with ProcessPoolExecutor(jobs) as pool:
        chunks: Iterator[list[Row]] = pool.map(_chunk, [folder] * len(starts), starts, [n] * len(starts))
        done = track(chunks, "cases", len(starts), console=console, disable=not console.is_terminal)
        return [row for chunk in done for row in chunk]


def fingerprint() -> str:
    """Of every source file that a row depends on: chunks of another version are not reused."""
    sources = [*sorted(Path(gb.__file__).parent.rglob("*.py")), Path(cases.__file__), Path(__file__)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def _chunk(folder: Path, start: int, n: int) -> list[Row]:
    path = folder / f"{start:06d}-{min(start + CHUNK, n):06d}.json"
    if not path.exists():
        rows = [row(cases.case(index)) for index in range(start, min(start + CHUNK, n))]
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(rows))
        partial.replace(path)
    found: list[Row] = json.loads(path.read_text())
    return found


def row(case: cases.Case) -> Row:
    """One case: exact errors and gap in units of sd(r), with every bound, and which of them is violated."""
    question = case.target, case.process, case.reward
    found = bounds.best(*question, case.eta)
    some = {name: bound for name, bound in found.bounds.items() if name in GENERAL}
    limits = {"best": found, "best of B1 to B4": combined(some, {}, found.trivial), **found.bounds}
    sd = math.sqrt(variance(problem(*question, case.eta).reward, case.target).value)
    (ode, sde, gap), error = exact(case)
    sizes = {"ode": ode, "sde": sde, "gap": gap}
    violated = [
        f"{name}.{part}"
        for name, limit in limits.items()
        for part, value in sizes.items()
        if getattr(limit, part) is not None
        and abs(value) > getattr(limit, part) * (1 + ROUNDING) + error + FLOOR * (sd + 1)
    ]
    scaled = {name: limit.gap / sd for name, limit in limits.items()}
    return {
        "index": case.index,
        "regime": case.regime,
        "modes": len(case.target.weights) if isinstance(case.target, gb.GaussianMixture) else 1,
        "gap": gap / sd,
        "bounds": {name: value if math.isfinite(value) else None for name, value in scaled.items()},
        "winner": found.winner,
        "violated": violated,
    }


def exact(case: cases.Case) -> tuple[tuple[float, float, float], float]:
    """The ODE's error, the SDE's and the gap, with the largest error that they can have."""
    question = case.target, case.process, case.reward
    if isinstance(case.target, gb.Gaussian):
        ode, sde = (float(gb.sampler_error(*question, eta)) for eta in (0.0, case.eta))  # type: ignore[arg-type]
        return (ode, sde, float(gb.reward_gap(*question, case.eta))), 0.0
    first, second = sampler_errors(*question, [0.0, case.eta])
    values = float(first.value), float(second.value)
    return (*values, values[0] - values[1]), 2 * float(first.error + second.error)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The table: per regime and kind of target, for every bound, ratios to the gap where it is large enough."""
    violations = [{"index": row["index"], "violated": row["violated"]} for row in rows if row["violated"]]
    groups = []
    for regime in REGIMES:
        for modes, several in (("any", None), ("one", False), ("several", True)):
            chosen = [r for r in rows if r["regime"] == regime and several in (None, r["modes"] > 1)]
            groups.append({"regime": regime, "modes": modes, **_group(chosen)})
    return {"cases": len(rows), "share": SHARE, "violations": violations, "groups": groups}


def _group(rows: Sequence[Row]) -> dict[str, Any]:
    large = [row for row in rows if abs(row["gap"]) > SHARE]
    small = [row for row in rows if abs(row["gap"]) <= SHARE]
    names = list(dict.fromkeys(name for row in rows for name in row["bounds"]))
    winners = [row["winner"] for row in large]
    return {
        "large": len(large),
        "small": len(small),
        "ratio": {name: _quantiles(large, name, lambda row: abs(row["gap"])) for name in names},
        "small gaps, bound / sd(r)": {name: _quantiles(small, name, lambda row: 1.0) for name in names},
        "winners": {name: winners.count(name) for name in sorted(set(winners))},
    }


def _quantiles(rows: Sequence[Row], name: str, unit: Callable[[Row], float]) -> dict[str, Any]:
    """Median and 95th percentile of bound / unit where the bound applies; None for an infinite one."""
    given = [row for row in rows if name in row["bounds"]]
    values = [math.inf if row["bounds"][name] is None else row["bounds"][name] / unit(row) for row in given]
    if not values:
        return {"applies": 0, "median": None, "p95": None}
    # the order statistic above the quantile: no arithmetic with infinities
    median, p95 = (float(np.quantile(values, level, method="higher")) for level in (0.5, 0.95))
    return {"applies": len(values)} | {
        key: value if math.isfinite(value) else None for key, value in (("median", median), ("p95", p95))
    }


def report(table: dict[str, Any], console: Console) -> None:
    """Print the table and the verdict."""
    for group in table["groups"]:
        title = f"{group['regime']}, {group['modes']} mode(s): {group['large']} cases with |gap| > {SHARE:g} sd(r)"
        grid = Table(title=title, title_justify="left")
        for heading in ("bound", "applies", "bound/|gap|: median", "95th percentile", "rest: median of bound/sd(r)"):
            grid.add_column(heading, justify="left" if heading == "bound" else "right")
        for name, found in group["ratio"].items():
            rest = group["small gaps, bound / sd(r)"][name]
            cells = (found["median"], found["p95"], rest["median"])
            grid.add_row(name, str(found["applies"]), *("-" if cell is None else f"{cell:.3g}" for cell in cells))
        console.print(grid)
    for group in table["groups"]:
        if group["modes"] == "any" and group["regime"] in TARGETS:
            found, (median, p95) = group["ratio"]["best"], TARGETS[group["regime"]]
            console.print(
                f"{group['regime']}: best bound / |gap| has median {found['median']:.3g} (asked: at most {median:g}) "
                f"and 95th percentile {found['p95']:.3g} (at most {p95:g})"
            )
    console.print(f"{len(table['violations'])} of {table['cases']} cases violate a bound", table["violations"] or "")


if __name__ == "__main__":
    tyro.cli(main)
