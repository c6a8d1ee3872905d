"""``measure_gap``: the reward gap between ODE and SDE sampling of a pipeline, over a grid of eta and step counts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from empirical.meter import pipelines, provenance
from empirical.meter.clock import Clock
from empirical.meter.draws import Draws
from empirical.meter.generate import Sampler
from empirical.meter.plan import MODEL, REFERENCE, Cell, Plan
from empirical.meter.power import samples_for, spread
from empirical.meter.results import Results, collect
from empirical.meter.run import Advance, Instrument, World, measure
from empirical.meter.store import Store
from empirical.meter.summary import summarise
from empirical.meter.theory import expected_reduction
from empirical.models import ADAPTERS
from empirical.rewards import load as load_reward
from empirical.rewards import name_of
from gapbound._validate import confidence, count, positive

PILOT_SAMPLES = 4
PILOT_SEED = 2**32  # added to the seed: no measurement has the pilot's draws

Bar = Callable[[int, str], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class Measurement:
    """A finished measurement.

    Attributes:
        results: rewards of every pair, as arrays.
        summary: gaps, their parts and everything else that the report shows, as plain data.
        provenance: what made the numbers.
        folder: where they are kept.
        instrument: what made them; the report makes its pictures with it.
    """

    results: Results
    summary: Mapping[str, Any]
    provenance: Mapping[str, Any]
    folder: Path
    instrument: Instrument


def measure_gap(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    rewards: Any,
    etas: Sequence[float] = (0.5, 1.0, 1.5),
    steps: Sequence[int] = (10, 20, 50),
    samples_per_prompt: int = 4,
    *,
    out: str | Path,
    reference: DiffusionPipeline | str | None = None,
    guidance: float | None = None,
    draws: int = 1,
    seed: int = 0,
    sampler: str = "gddim",
    size: int | None = None,
    half_width: float | None = None,
    level: float = 0.95,
    batch_size: int = 8,
    progress: Bar | None = None,
) -> Measurement:
    """Measure the gap E r(ODE) - E r(SDE) of a pipeline by pairs of runs that share x_T, prompt and guidance.

    Everything is recorded in ``out`` as it is made; called again with the same arguments, it goes on where it was.

    Args:
        pipeline: of a class of ``pipelines.KINDS``, with a scheduler that has a stochastic form.
        prompts: no two alike; they are the units of the intervals.
        rewards: by name, or a list of rewards and texts such as "jpeg_compressibility", or one of these.
        etas: of the SDE runs, above 0.
        steps: step counts; two or more give the limit of many.
        samples_per_prompt: x_T for each prompt.
        out: folder of the results.
        reference: the model before training, or "adapters": this pipeline with its LoRA off.
        guidance: in use, at least 1; the class's own default if None. 1 is measured beside it.
        draws: SDE runs per eta and x_T.
        seed: of everything random.
        sampler: of the SDE runs, a name of ``empirical.schedulers``.
        size: of the images in pixels.
        half_width: of the interval of the first reward's gap at every eta and step count: a pilot then fixes
            ``samples_per_prompt`` beforehand.
        level: of the intervals.
        batch_size: pairs that run together.
        progress: (images, label) -> context manager of a function that is told how many images were made.

    Raises:
        ValueError: a plan that cannot be measured, a pipeline or scheduler of an unknown class, a folder that holds
            another measurement or cannot be written; NaN from a network (``NetworkError``) or a reward
            (``RewardError``), with step, prompt and sample.
    """
    level, world = confidence(level), World.found()
    instrument = _instrument(pipeline, reference, named_rewards(rewards), Draws(seed), sampler, size)
    roles = (MODEL,) if reference is None else (MODEL, REFERENCE)
    guidance = default_guidance(pipeline) if guidance is None else guidance
    plan = Plan(
        tuple(prompts), tuple(etas), tuple(steps), guidance, samples_per_prompt, draws, seed, sampler, size, roles=roles
    )
    folder, models = Path(out), provenance.models(instrument)

    def run(one: Plan, at: Path, label: str) -> tuple[Results, Clock]:
        return _run(one, instrument, models, at, count("batch_size", batch_size), world, label, progress or silent)

    if half_width is not None:
        positive("half_width", half_width)
        pilot = replace(plan, seed=seed + PILOT_SEED, samples=PILOT_SAMPLES, roles=(MODEL,), unguided=False)
        plan = replace(plan, samples=_samples(run(pilot, folder / "pilot", "pilot")[0], half_width, level))
    results, clock = run(plan, folder, "pairs")
    made_by = provenance.provenance(
        provenance.configuration(plan, instrument, models),
        results,
        clock,
        batch_size,
        world.size,
        str(pipeline.device),
    )
    return Measurement(results, summarise(results, level, _prediction(results)), made_by, folder, instrument)


def named_rewards(rewards: Any) -> dict[str, Any]:
    """Rewards by name, from a mapping, a list, or a single one; texts are loaded.

    Raises:
        ValueError: none, or two of one name.
    """
    if isinstance(rewards, Mapping):
        found = dict(rewards)
    else:
        single = isinstance(rewards, str) or not isinstance(rewards, Sequence)
        listed = [
            (r, load_reward(r)) if isinstance(r, str) else (name_of(r), r) for r in ([rewards] if single else rewards)
        ]
        found = dict(listed)
        if len(found) < len(listed):
            raise ValueError(f"two rewards have one name: {[name for name, _ in listed]}; give a mapping of names")
    if not found:
        raise ValueError("rewards is empty; give at least one, such as 'jpeg_compressibility'")
    return found


def default_guidance(pipeline: DiffusionPipeline) -> float:
    """The guidance that the pipeline's class takes if it is told none."""
    (name,) = [key for key in pipelines.guidance_arguments(pipeline, 1.0, 1) if key != "negative_prompt"]
    return float(inspect.signature(type(pipeline).__call__).parameters[name].default)


def _prediction(results: Results) -> Callable[[int, float], float | None]:
    """What theory says of the variance reduction; it speaks of gDDIM alone."""
    plan = results.plan
    if plan.sampler != "gddim":
        return lambda steps, eta: None
    ends = {n: results.cells[Cell(MODEL, plan.guidance, n)].sigmas for n in plan.steps}
    return lambda steps, eta: expected_reduction(*ends[steps], eta, plan.draws)


def silent(images: int, label: str) -> AbstractContextManager[Advance]:
    """No progress bar."""
    return nullcontext(lambda made: None)


def _instrument(
    pipeline: DiffusionPipeline,
    reference: DiffusionPipeline | str | None,
    rewards: Mapping[str, Any],
    draws: Draws,
    sampler: str,
    size: int | None,
) -> Instrument:
    adapters = isinstance(reference, str)
    if adapters and reference != ADAPTERS:
        raise ValueError(f"reference must be a pipeline or {ADAPTERS!r}, got {reference!r}; pipelines.load loads one")
    samplers = {MODEL: Sampler(pipelines.checked(pipeline), draws, sampler, size)}
    if adapters:
        with pipelines.without_adapters(pipeline):
            pass
    elif reference is not None:
        samplers[REFERENCE] = Sampler(pipelines.checked(reference), draws, sampler, size)
        shapes = {role: pipelines.latent_shape(one.pipeline, size) for role, one in samplers.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"model and reference must share x_T, but their latents have the shapes {shapes}")
    return Instrument(samplers, rewards, adapters)


def _run(
    plan: Plan,
    instrument: Instrument,
    models: Mapping[str, Any],
    folder: Path,
    batch_size: int,
    world: World,
    label: str,
    progress: Bar,
) -> tuple[Results, Clock]:
    instrument = instrument.seeded(plan.seed)
    store = Store(folder, provenance.configuration(plan, instrument, models), world.rank)
    world.wait()  # what an interrupt left is mended before anyone reads it
    share = plan.images if world.size == 1 else -(-plan.images // world.size)
    with progress(share, label) as advance:
        clock = measure(plan, instrument, store, batch_size, world, advance)
    return collect(plan, list(instrument.rewards), store.records()), clock


def _samples(pilot: Results, half_width: float, level: float) -> int:
    """The most that any gap of the first reward, at the guidance in use, needs."""
    plan = pilot.plan
    cells = [Cell(MODEL, plan.guidance, n) for n in plan.steps]
    gaps = [pilot.gap(pilot.rewards[0], cell, eta) for cell in cells for eta in plan.etas]
    return max(samples_for(half_width, spread(gap), len(plan.prompts), level) for gap in gaps)
