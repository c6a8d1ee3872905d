"""Evaluation during training: the gap meter on fixed held-out prompts and noise, everything pinned and recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline

from empirical.meter import measure_gap
from empirical.meter.draws import Draws
from empirical.meter.plan import MODEL, REFERENCE
from empirical.meter.results import Results, collect
from empirical.meter.store import Store
from empirical.meter.summary import summarise
from empirical.training.checkpoint import untouched_random_state
from empirical.training.log import EVALUATION
from empirical.training.policy import Policy
from empirical.training.rollout import roll
from gapbound.updates import step_kl

if TYPE_CHECKING:
    from empirical.training.run import Run

KEPT = ("rewards", "gaps", "induced", "guidance", "diversity", "verdicts")  # of the meter's summary


@dataclass(frozen=True)
class Exam:
    """What every evaluation of a run has in common; nothing of it is inherited from training.

    Args:
        prompts: held out from training.
        rewards: by name; the first one is trained on.
        etas: of the SDE runs, above 0; the ODE is always there.
        steps: of every sampler.
        guidance: in use; 1 is measured beside it.
        samples: x_T of each prompt.
        seed: of x_T and increments.
        sampler: of the SDE runs.
        size: pixels, None for the pipeline's own.
        batch: pairs that run together.
        level: of the intervals.
    """

    prompts: tuple[str, ...]
    rewards: Mapping[str, Any]
    etas: tuple[float, ...]
    steps: int
    guidance: float
    samples: int
    seed: int
    sampler: str = "gddim"
    size: int | None = None
    batch: int = 16
    level: float = 0.95


def examine(
    pipeline: DiffusionPipeline, exam: Exam, folder: Path, before: Path | None, policy: Policy, weights: str
) -> dict[str, Any]:
    """The record of an evaluation: rewards under ODE and SDEs, gaps, what training added to them, diversity, KL.

    Args:
        pipeline: to judge, as it is.
        exam: what is asked.
        folder: where the meter keeps its pairs; an interrupted evaluation goes on there.
        before: the folder of the evaluation before training, which is the reference; None if this is it.
        policy: a sampler at the training eta, for the KL.
        weights: "raw" or "ema", for the record.
    """
    measured = measure_gap(
        pipeline, exam.prompts, dict(exam.rewards), exam.etas, (exam.steps,), exam.samples, out=folder,
        guidance=exam.guidance, seed=exam.seed, sampler=exam.sampler, size=exam.size, level=exam.level,
        batch_size=exam.batch,
    )  # fmt: skip
    results = measured.results
    summary = measured.summary if before is None else summarise(beside(results, before), exam.level)
    pinned = {key: value for key, value in measured.provenance.items() if key not in ("time", "prompts")}
    pinned["models"] = {**pinned["models"], "weights": weights}
    return {
        **{key: summary[key] for key in KEPT},
        **path_kl(policy, exam.prompts[: exam.batch], exam.seed),
        "pinned": {key: pinned[key] for key in ("plan", "models", "rewards", "ode", "last_step") if key in pinned},
    }


def at(run: Run, epoch: int) -> None:
    """Evaluate after ``epoch`` finished epochs, if that is due and not done yet."""
    due = epoch % run.config.evaluate_every == 0 or epoch == run.config.epochs
    if not due or run.log.has(EVALUATION, epoch):
        return
    began, folder = time.perf_counter(), run.config.out / "evaluations"
    with untouched_random_state(), run.judged() as weights:
        record = examine(
            run.pipeline, run.exam, folder / f"epoch-{epoch:06d}", folder / "epoch-000000" if epoch else None,
            replace(run.policy, eta=run.config.profile, flash=None), weights,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    run.log.add(EVALUATION, epoch, record, seconds)
    for row in record["gaps"]:
        if row["role"] == MODEL:
            run.say(
                f"evaluation {epoch}: {row['reward']}, guidance {row['guidance']:g}, eta {row['eta']:g}: "
                f"ODE {row['ode']:.4g}, SDE {row['sde']:.4g}, gap {row['value']:+.3g}"
            )


def beside(results: Results, before: Path) -> Results:
    """The results with those of the evaluation before training as their reference."""
    configuration = json.loads((before / "configuration.json").read_text(encoding="utf-8"))
    names = configuration["rewards"]
    if names != list(results.rewards):
        raise ValueError(f"the evaluation before training judged by {names}, this one by {list(results.rewards)}")
    reference = collect(results.plan, names, Store(before, configuration, rank=1).records())  # rank 1 only reads
    cells = {cell._replace(role=REFERENCE): found for cell, found in reference.cells.items()}
    return Results(replace(results.plan, roles=(MODEL, REFERENCE)), results.rewards, {**results.cells, **cells})


@torch.no_grad()
def path_kl(policy: Policy, prompts: Sequence[str], seed: int) -> dict[str, float | None]:
    """KL of the policy's paths to the reference's over the trainable steps, mean over held-out samples.

    ``path_kl`` is exact for the sampler's own variances given the paths; ``path_kl_at_eta_1`` is rescaled step by step,
    so that runs of different eta compare; None where there is no formula.
    """
    path = roll(policy, prompts, list(range(len(prompts))), Draws(seed))
    total, rescaled = 0.0, 0.0
    for k in policy.trainable_steps:
        x, outcome = path.latents[k], path.latents[k + 1]
        mean_ref = policy.reference_mean(x, k, path.condition, outcome)
        mean, std = policy.moments(x, k, path.condition, outcome)
        kl = float(step_kl(mean, mean_ref, std, event_dims=mean.ndim - 1).mean())
        factor = policy.rescaling(k)
        total, rescaled = total + kl, rescaled + (float("nan") if factor is None else factor * kl)
    return {"path_kl": total, "path_kl_at_eta_1": rescaled if rescaled == rescaled else None}
