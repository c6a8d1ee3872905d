"""Training runs as figures: ``python -m analysis.plot_training RUN...`` reads the logs of ``empirical/train_ddpo.py``.

Reward in training, rewards of the ODE and the SDEs on held-out prompts, what training added to their gap, diversity,
and KL to the model before training, over epochs; PNG, PDF, and JSON of the plotted numbers. Several runs, such as
seeds, share the panels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from analysis import command, job
from analysis.figure import Program, Settings
from analysis.style import LOOKS, REFERENCE, Look, eta_handles, panels, shared_legend, title
from empirical.meter.plan import MODEL, Cell, Plan
from empirical.meter.results import collect
from empirical.meter.statistics import mean
from empirical.meter.store import Store
from gapbound._validate import Array

ALSO = 2  # rewards beside the first one that are shown
OTHER = Look("#1f7a5c", "P", "-")  # of an eta without a look of its own


def main(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help="Folders of runs.")],
    out: command.Out = Path("figures"),
    name: Annotated[str, tyro.conf.arg(help="Of the files.")] = "training",
) -> None:
    """Write the figure of these runs."""
    program = Program(name, partial(compute, runs), draw)
    try:
        program.write(job.checked_folder(out), Settings())
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    output = command.console()
    output.print(table(runs))
    output.print(f"{name}.png, .pdf and .json in {out}", highlight=False)


def compute(runs: Sequence[Path], settings: Settings, progress: Any) -> dict[str, Any]:
    """What is plotted of each run, in the order given.

    Raises:
        ValueError: a folder without a log, or a log without an evaluation.
    """
    if not runs:
        raise ValueError("name at least one folder of a run")
    return {"runs": [read(run) for run in runs]}


def read(run: Path) -> dict[str, Any]:
    """The curves of a run: its first reward at the guidance in use."""
    path = run / "log.jsonl"
    if not path.is_file():
        raise ValueError(f"{run} holds no log.jsonl; name the folder of a run")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    judged = [line for line in lines if line["kind"] == "evaluation"]
    if not judged:
        raise ValueError(f"{path} has no evaluation yet")
    names, guidance = (
        list(dict.fromkeys(row["reward"] for row in judged[0]["gaps"])),
        judged[0]["pinned"]["plan"]["guidance"],
    )
    reward = names[0]
    at = {"role": "model", "guidance": guidance}
    return {
        "reward": reward,
        "guidance": guidance,
        "epoch": [line["epoch"] for line in epochs],
        "training": [line["reward_mean"] for line in epochs],
        "evaluated": [line["epoch"] for line in judged],
        "rewards": _curves(judged, "rewards", reward=reward, **at),
        "also": {name: _curves(judged, "rewards", reward=name, **at) for name in names[1 : 1 + ALSO]},
        "added": _curves([line for line in judged if line["epoch"]], "induced", reward=reward, **at),
        "diversity": _curves(judged, "diversity", **at),
        "path_kl": [line["path_kl"] for line in judged],
    }


def table(runs: Sequence[Path]) -> Table:
    """Every judged reward before and after each run, and the change in units of its spread before."""
    shown = Table(title="held-out prompts, guidance in use; after - before, with 95 % intervals over prompts")
    for column in ("run", "reward", "sampler", "before", "after", "change", "in std of all", "in std of a prompt"):
        shown.add_column(column, justify="left" if column in ("run", "reward", "sampler") else "right")
    for run in runs:
        for one in changes(run):
            low, high = one["interval"]
            units = [f"{one['change'] / one[key]:+.2f}" if one[key] else "" for key in ("std", "within")]
            ends = [f"{one[key]:.3f}" for key in ("before", "after")]
            change = f"{one['change']:+.3f} ({low:+.3f}, {high:+.3f})"
            shown.add_row(run.name, one["reward"], one["sampler"], *ends, change, *units)
    return shown


def changes(run: Path) -> list[dict[str, Any]]:
    """By reward, ODE and training SDE: means before and after, the change paired by prompt, and spreads before.

    Nothing for a run that was judged once. ``std`` is over all images before training, ``within`` over images of one
    prompt (0 where they are alike).
    """
    folders = sorted((run / "evaluations").glob("epoch-*"))
    if len(folders) < 2:
        return []
    first, last = _rewards(folders[0]), _rewards(folders[-1])
    found = []
    for (reward, sampler), before in first.items():
        after = last[reward, sampler]
        change = mean(after - before)
        spreads = {"std": float(before.std(ddof=1)), "within": float(before.var(1, ddof=1).mean() ** 0.5)}
        values = {"before": float(before.mean()), "after": float(after.mean()), "change": change.value}
        found.append({"reward": reward, "sampler": sampler, "interval": change.interval, **values, **spreads})
    return found


def _rewards(folder: Path) -> dict[tuple[str, str], Array]:
    """Of every reward and sampler at the guidance in use, shape (prompts, samples)."""
    configuration = json.loads((folder / "configuration.json").read_text(encoding="utf-8"))
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in configuration["plan"].items()}
    plan = Plan(**settings)
    results = collect(plan, configuration["rewards"], Store(folder, configuration, rank=1).records())
    cell = Cell(MODEL, plan.guidance, plan.steps[0])
    found = {}
    for r, reward in enumerate(results.rewards):
        found[reward, "ODE"] = results.cells[cell].ode[r]
        for e, eta in enumerate(plan.etas):
            found[reward, f"SDE, eta {eta:g}"] = results.cells[cell].sde[r, e].mean(-1)
    return found


def _curves(judged: Sequence[dict[str, Any]], table: str, **wanted: Any) -> dict[str, Any]:
    """By eta: epoch, value, low and high of each row that has these values."""
    found: dict[str, dict[str, list[Any]]] = {}
    for line in judged:
        for row in line[table]:
            if all(row[key] == value for key, value in wanted.items()):
                curve = found.setdefault(f"{row['eta']:g}", {"epoch": [], "value": [], "low": [], "high": []})
                low, high = row["interval"] or (row["value"], row["value"])
                for key, value in zip(curve, (line["epoch"], row["value"], low, high), strict=True):
                    curve[key].append(value)
    return found


def draw(data: dict[str, Any]) -> Figure:
    """Panels over epochs: the trained reward, its gap, KL and diversity, and up to two more rewards."""
    also = list(data["runs"][0]["also"])
    figure, axes = panels(2, 4 if len(also) > 1 else 3)
    training, rewards, added, kl, diversity, *others = axes.flat
    for run in data["runs"]:
        training.plot(run["epoch"], run["training"], color=REFERENCE, linewidth=0.8)
        tables = {rewards: run["rewards"], added: run["added"], diversity: run["diversity"]}
        tables |= {axis: run["also"][name] for axis, name in zip(others, also, strict=False)}
        for panel, curves in tables.items():
            for eta, curve in curves.items():
                _points(panel, curve, LOOKS.get(float(eta), OTHER))
        kl.plot(run["evaluated"], run["path_kl"], color=REFERENCE, marker="o")
    added.axhline(0, color=REFERENCE, linewidth=0.6)
    labels = ["reward of rollouts", "reward, held out", "gap added", "KL of a path", "diversity"]
    labels += [name.replace("_", " ") for name in also]
    for axis in others[len(also) :]:
        axis.set_axis_off()
    for axis, letter, label in zip(axes.flat, "abcdefgh", labels, strict=False):
        title(axis, letter, label)
        axis.set_xlabel("epoch")
    etas = sorted({float(eta) for run in data["runs"] for eta in run["rewards"]})
    shared_legend(figure, eta_handles(eta for eta in etas if eta in LOOKS))
    return figure


def _points(axes: Axes, curve: dict[str, Any], shape: Look) -> None:
    below = [value - low for value, low in zip(curve["value"], curve["low"], strict=True)]
    above = [high - value for value, high in zip(curve["value"], curve["high"], strict=True)]
    axes.errorbar(curve["epoch"], curve["value"], yerr=[below, above], **{**shape.points, **shape.line})


if __name__ == "__main__":
    command.run(main, "python -m analysis.plot_training")
