r"""Does theory predict a real model's gap?  ``python -m empirical.check_theory`` asks the embedded model.

Theory gives the law of N steps exactly for a Gaussian. So the latents of the data set are read as the Gaussian of their
mean and covariance. The rewards are r_B(x) = -sum over i in B of (u_i' x)^2, u_i the principal directions of that
covariance and B a band of them; ``gapbound.discrete_law`` predicts the gap of ODE and SDE after N steps, band by band,
and nothing is fitted. The model is then measured on the same rewards, unconditionally and without guidance, by pairs
that share x_T. Where the data are not Gaussian, or the network's score is not the data's, the two differ: the table
says by how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

import gapbound as gb
from analysis import command, job
from analysis.figure import Program, Progress, Settings
from analysis.style import PAGE, REFERENCE, eta_handles, look, panels, shared_legend, title
from empirical.meter.draws import Draws
from empirical.meter.generate import Run, Sampler
from empirical.meter.pipelines import load
from empirical.meter.statistics import mean
from empirical.models import EMBEDDED
from empirical.shapes.autoencoder import pictures
from empirical.shapes.scene import scene
from gapbound._validate import Array

EDGES = (0, 1, 4, 16, 64, 256, 768)  # ranks between which the directions of a band lie, the widest first
BANDS = len(EDGES) - 1
ETAS, STEPS = (1.0, 1.5), (10, 20, 50)
BATCH = 64
HELD_OUT = 11  # seed of a data set that nothing was trained on: training takes even ones
UNCONDITIONAL = ""  # what takes the place of dropped captions in training


@dataclass(frozen=True)
class Directions:
    """Principal directions of data latents, the widest first.

    Attributes:
        law: of the latents along them, a diagonal Gaussian of dimension d.
        basis: orthonormal columns, shape (d, d).
        bands: of each direction, from 0 (the widest alone) to BANDS - 1, shape (d,).
    """

    law: gb.Gaussian
    basis: Array
    bands: Array

    @classmethod
    def of(cls, latents: Array) -> Directions:
        """Of a sample of latents, shape (n, d).

        Raises:
            ValueError: too few to span the space.
        """
        n, d = latents.shape
        if n <= d:
            raise ValueError(f"{d} directions need more than {d} latents, got {n}")
        variances, basis = np.linalg.eigh(np.cov(latents.T))
        basis = basis[:, ::-1]
        return cls(
            gb.Gaussian(latents.mean(0) @ basis, variances[::-1]),
            basis,
            np.searchsorted(EDGES, np.arange(d), side="right") - 1,
        )

    def rewards(self, latents: Tensor) -> Array:
        """r_B of each sample, shape (n, BANDS)."""
        squares = (latents.flatten(1).double().cpu().numpy() @ self.basis) ** 2
        return -np.stack([squares[:, self.bands == band].sum(1) for band in range(BANDS)], axis=1)

    def expected(self, law: gb.Gaussian) -> Array:
        """E r_B under a diagonal Gaussian along the directions, shape (BANDS,)."""
        return -np.array([(law.mean**2 + law.cov)[self.bands == band].sum() for band in range(BANDS)])


def data_latents(pipeline: Any, n: int) -> Array:
    """Latents of n pictures of a data set that the model was not trained on, shape (n, d)."""
    found = []
    with torch.no_grad():
        for first in range(0, n, 256):
            latents = pipeline.vae.encode(pictures(HELD_OUT, first, min(256, n - first))).latents
            found.append((latents * pipeline.vae.config.scaling_factor).flatten(1).double().numpy())
    return np.concatenate(found)


def background_share(along: Array) -> float:
    """Share of the variance along a direction that lies between the backgrounds of ``data_latents``'s pictures."""
    grounds = np.array([scene(HELD_OUT, index).background for index in range(len(along))])
    within = sum(along[grounds == ground].var() * (grounds == ground).mean() for ground in set(grounds))
    return float(1 - within / along.var())


def predicted(directions: Directions, config: Mapping[str, Any], eta: float, steps: int) -> Array:
    """E r_B(ODE) - E r_B(SDE) after N steps of the scheduler with this configuration, shape (BANDS,)."""
    spacing = config["timestep_spacing"]
    process = gb.VP.from_diffusers(config, steps, spacing)
    ode, sde = (
        directions.expected(gb.discrete_law(directions.law, process, "gddim", own, steps, grid=spacing))
        for own in (0.0, eta)
    )
    end = float(process.beta.times(steps, spacing)[-1])
    return float(process.scale(end)) ** 2 * (ode - sde)  # the pipeline ends in x = scale z


def measured(pipeline: Any, directions: Directions, steps: int, samples: int, seed: int) -> list[Array]:
    """r_B(ODE) - r_B(SDE) of pairs that share x_T, for each of ``ETAS``, shape (samples, BANDS)."""
    sampler = Sampler(pipeline, Draws(seed))
    rows: list[list[Array]] = [[] for _ in ETAS]
    for first in range(0, samples, BATCH):
        pairs = [(UNCONDITIONAL, number) for number in range(first, min(first + BATCH, samples))]
        ode = directions.rewards(sampler(pairs, Run(0.0, steps, 1.0)).latents)
        for row, eta in zip(rows, ETAS, strict=True):
            row.append(ode - directions.rewards(sampler(pairs, Run(eta, steps, 1.0)).latents))
    return [np.concatenate(row) for row in rows]


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Predictions and measurements of every eta, step count and band."""
    pipeline = load(EMBEDDED, settings.device)
    latents = data_latents(pipeline, 2_000 if settings.quick else 10_000)
    directions = Directions.of(latents)
    samples, rows = 64 if settings.quick else 512, []
    for done, steps in enumerate(STEPS):
        found = measured(pipeline, directions, steps, samples, settings.seed)
        for eta, pairs in zip(ETAS, found, strict=True):
            expected = predicted(directions, pipeline.scheduler.config, eta, steps)
            rows += [_row(eta, steps, band, expected[band], pairs[:, band]) for band in range(BANDS)]
        progress((done + 1) / len(STEPS))
    ground = background_share(latents @ directions.basis[:, 0])
    variances = [float(directions.law.cov[directions.bands == band].mean()) for band in range(BANDS)]
    return {"rows": rows, "variances": variances, "background": ground, "samples": samples, "model": EMBEDDED}


def _row(eta: float, steps: int, band: int, expected: float, pairs: Array) -> dict[str, Any]:
    found = mean(pairs)
    return {
        "eta": eta, "steps": steps, "band": band, "predicted": expected, "measured": found.value,
        "interval": found.interval,
    }  # fmt: skip


def summary(data: Mapping[str, Any]) -> dict[str, float]:
    """How often sign and size agree.

    Returns:
        signs: share of the rows whose interval excludes 0 and whose sign is the predicted one, among those that
            exclude 0; settled: share of all rows that do; slope: of the measured on the predicted gaps, through 0;
            correlation: of the two.
    """
    rows = data["rows"]
    settled = [row for row in rows if row["interval"][0] > 0 or row["interval"][1] < 0]
    x, y = (np.array([row[key] for row in rows]) for key in ("predicted", "measured"))
    agreeing = [row["predicted"] * row["measured"] > 0 for row in settled]
    return {
        "settled": len(settled) / len(rows),
        "signs": float(np.mean(agreeing)) if agreeing else 0.0,
        "slope": float(x @ y / (x @ x)),
        "correlation": float(np.corrcoef(x, y)[0, 1]),
    }


def table(data: Mapping[str, Any]) -> Table:
    """One row for each eta, step count and band."""
    found = Table(title=f"Gap of -|x|^2 in bands of principal directions, {data['samples']} pairs")
    for name in ("eta", "steps", "directions", "variance", "predicted", "measured", "95 % interval"):
        found.add_column(name, justify="right")
    for row in data["rows"]:
        band, (low, high) = row["band"], row["interval"]
        found.add_row(
            f"{row['eta']:g}", f"{row['steps']}", f"{EDGES[band] + 1} to {EDGES[band + 1]}",
            f"{data['variances'][band]:.3f}", f"{row['predicted']:+.3f}", f"{row['measured']:+.3f}",
            f"{low:+.3f} to {high:+.3f}", end_section=band == BANDS - 1,
        )  # fmt: skip
    return found


def draw(data: Mapping[str, Any]) -> Figure:
    """Measured against predicted gaps, a panel for each step count."""
    figure, axes = panels(1, len(STEPS), PAGE, 2.6)
    for place, letter, steps in zip(axes[0], "abc", STEPS, strict=True):
        rows = [row for row in data["rows"] if row["steps"] == steps]
        ends = [min(row["predicted"] for row in rows), max(row["predicted"] for row in rows)]
        place.plot(ends, ends, color=REFERENCE, linestyle="--", linewidth=0.8)
        for row in rows:
            reach = np.abs(np.array([row["interval"]]).T - row["measured"])
            place.errorbar([row["predicted"]], [row["measured"]], reach, **look(row["eta"]).points, markersize=4)
        place.set(xscale="symlog", yscale="symlog", xlabel="predicted gap")
        title(place, letter, f"{steps} steps")
    axes[0, 0].set_ylabel("measured gap")
    shared_legend(figure, eta_handles(ETAS))
    return figure


PROGRAM = Program("theory_check", compute, draw)


def main(
    quick: command.Quick = False,
    out: command.Out = Path("figures"),
    seed: command.Seed = 0,
    device: command.Device = "cpu",
) -> None:
    """Compare predicted with measured gaps of the embedded model: PNG, PDF, JSON, and a table."""
    output = command.console()
    data = job.figures((PROGRAM,), out, None, output, quick, seed, device)[PROGRAM.name]
    output.print(table(data))
    found = summary(data)
    output.print(
        f"{found['settled']:.0%} of the intervals exclude 0, {found['signs']:.0%} of these have the predicted sign; "
        f"the measured gaps are {found['slope']:.2f} of the predicted ones (correlation {found['correlation']:.2f}). "
        f"The widest direction is the background, three values and no Gaussian: {data['background']:.1%} of "
        "its variance.",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    command.run(main, "python -m empirical.check_theory")
