"""Variants of GRPO after equal wall-clock: ``python -m analysis.training_variants``, half an hour on two cores.

All are settings of ``train_mixgrpo`` (DDPO's own of ``train_ddpo``) on the embedded flow model: the same trajectory
length, samples, learning rate and reward. Each variant first runs a few iterations to see how long one takes, and then
as many as the time allows, every run in a process of its own with one thread. Judged before and after, on held-out
captions: strict alignment under the ODE, and under the variant's own SDE at its own eta in all steps; and the trained
reward of the rollouts, which for windows are neither, in the first and the last iterations. What is finished is kept in
``--out``; the same command goes on from there.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table
from scipy.stats import t

from analysis.command import console, run
from analysis.files import write_text
from analysis.plot_training import changes

COMMON = ("--tracker", "none", "--keep", "1", "--evaluation-samples", "6")
#: Command and settings by name; the first is what times are compared with.
VARIANTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "SDE everywhere": ("mixgrpo", ("--window", "None", "--no-shared-noise")),
    "Flow-GRPO": ("mixgrpo", ("--window", "None", "--no-shared-noise", "--sampler", "flow-grpo", "--eta", "0.5")),
    "DanceGRPO": ("mixgrpo", ("--window", "None", "--sampler", "dance-grpo", "--eta", "0.3")),
    "CPS": ("mixgrpo", ("--window", "None", "--no-shared-noise", "--sampler", "cps", "--eta", "0.5")),
    "DDPO": ("ddpo", ("--advantage", "prompt", "--std-power", "0")),
    "Flow-GRPO-Fast": (
        "mixgrpo",
        ("--window", "2", "--position", "random", "--interval", "1", "--sampler", "flow-grpo", "--eta", "0.5"),
    ),
    "MixGRPO": ("mixgrpo", ()),
    "MixGRPO-Flash": ("mixgrpo", ("--flash", "6")),
}
JUDGE = "strict_alignment"
FIRST = 6  # iterations that tell how long one takes
ENDS = 5  # iterations at either end whose rollouts are averaged


def command(name: str, out: Path, *more: str) -> list[str]:
    """That trains the variant."""
    script, settings = VARIANTS[name]
    same = _mixgrpo_defaults() if script == "ddpo" else ()
    return [sys.executable, f"empirical/train_{script}.py", *COMMON, *same, *settings, "--out", str(out), *more]


def _mixgrpo_defaults() -> tuple[str, ...]:
    """The settings that ``train_ddpo`` has to be told to train what ``train_mixgrpo`` does by itself."""
    from empirical.training.mixgrpo_config import MixGRPOConfig

    own = MixGRPOConfig()
    names = (
        "model",
        "reward",
        "steps",
        "guidance",
        "batch",
        "group",
        "micro_batch",
        "learning_rate",
        "kl_weight",
        "ema",
    )
    settings = [part for name in names for part in (f"--{name.replace('_', '-')}", str(getattr(own, name)))]
    return (*settings, "--families", *own.families, "--also", *own.also)


def execute(line: Sequence[str]) -> None:
    """Run a command with one thread.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(line, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"{' '.join(line[1:4])} failed:\n{result.stderr[-2000:]}")


def epochs(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's iterations."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


def seconds_of_an_iteration(name: str) -> float:
    """Median, without the first."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        execute(command(name, out, "--epochs", str(FIRST), "--evaluate-every", "1000"))
        return statistics.median(line["seconds"] for line in epochs(out)[1:])


def result(name: str, seed: int, n: int, out: Path) -> dict[str, Any]:
    """What one run changed."""
    execute(command(name, out, "--epochs", str(n), "--evaluate-every", "1000000", "--seed", str(seed)))
    lines = epochs(out)
    judged = {one["sampler"]: [one["before"], one["after"]] for one in changes(out) if one["reward"] == JUDGE}
    (eta,) = json.loads((out / "config.json").read_text(encoding="utf-8"))["eta"]
    return {
        "variant": name, "seed": seed, "iterations": n,
        "passes": statistics.mean(sum(line["network_passes"].values()) for line in lines),
        "seconds": statistics.mean(line["seconds"] for line in lines),
        "rollouts": [statistics.mean(line["reward_mean"] for line in part) for part in (lines[:ENDS], lines[-ENDS:])],
        "ODE": judged["ODE"], "SDE": judged[f"SDE, eta {eta:g}"],
    }  # fmt: skip


def table(results: Sequence[Mapping[str, Any]], times: Mapping[str, float]) -> Table:
    """Means over seeds, with the half-width of a 95 % interval of three seeds or more by Student's t."""
    found = Table(title="after equal wall-clock; changes in points, mean over seeds +- 95 %")
    work, judged = ("iterations", "passes", "s / iteration", "of SDE"), ("strict, ODE", "strict, SDE", "rollouts")
    for column in ("variant", *work, *judged):
        found.add_column(column, justify="left" if column == "variant" else "right")
    whole = times[next(iter(VARIANTS))]
    for name in VARIANTS:
        own = [one for one in results if one["variant"] == name]
        if own:
            cells = [change([100 * (one[key][1] - one[key][0]) for one in own]) for key in ("ODE", "SDE", "rollouts")]
            passes = statistics.mean(one["passes"] for one in own)
            row = (str(own[0]["iterations"]), f"{passes:,.0f}", f"{times[name]:.2f}", f"{times[name] / whole:.0%}")
            found.add_row(name, *row, *cells)
    return found


def change(values: Sequence[float]) -> str:
    """Mean and half-width."""
    mean = statistics.mean(values)
    if len(values) < 3:
        return f"{mean:+.1f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.1f} +- {half:.1f}"


def main(
    minutes: Annotated[float, tyro.conf.arg(help="Of training, for each run.")] = 1.5,
    seeds: Annotated[int, tyro.conf.arg(help="Runs of each variant.")] = 3,
    at_once: Annotated[int, tyro.conf.arg(help="Runs side by side, of one thread each.")] = 2,
    only: Annotated[tuple[str, ...], tyro.conf.arg(help="Variants; all if none.")] = (),
    out: Annotated[Path, tyro.conf.arg(help="Folder of the runs and their results.")] = Path("build/variants"),
) -> None:
    """Run what is not finished and print the table."""
    output, chosen = console(), only or tuple(VARIANTS)
    unknown = set(chosen) - set(VARIANTS)
    if unknown:
        raise SystemExit(f"error: no variant {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    kept = out / "results.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {"seconds": {}, "runs": []}
    for name in dict.fromkeys([next(iter(VARIANTS)), *chosen]):
        if name not in found["seconds"]:
            found["seconds"][name] = seconds_of_an_iteration(name)
            output.print(f"{name}: {found['seconds'][name]:.2f} s an iteration", highlight=False)
            write_text(kept, json.dumps(found, indent=1) + "\n")
    done = {(one["variant"], one["seed"]) for one in found["runs"]}
    left = [(name, seed) for seed in range(seeds) for name in chosen if (name, seed) not in done]

    def run(case: tuple[str, int]) -> dict[str, Any]:
        name, seed = case
        n = max(int(60 * minutes / found["seconds"][name]), 2 * ENDS)
        return result(name, seed, n, out / f"{name.replace(' ', '-')}-{seed}")

    with ThreadPoolExecutor(at_once) as pool:
        for one in pool.map(run, left):
            found["runs"].append(one)
            write_text(kept, json.dumps(found, indent=1) + "\n")
            output.print(f"{one['variant']}, seed {one['seed']}: ODE {one['ODE'][0]:.3f} -> {one['ODE'][1]:.3f}")
    output.print(table(found["runs"], found["seconds"]))


if __name__ == "__main__":
    run(main, "python -m analysis.training_variants")
