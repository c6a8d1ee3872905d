"""What made the numbers: versions, weights, schedulers, seeds; nothing that depends on machine names or paths."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from empirical.meter import pipelines
from empirical.meter.clock import Clock
from empirical.meter.plan import MODEL, REFERENCE, Plan
from empirical.meter.results import Results
from empirical.meter.run import Instrument

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scipy", "gapbound")


def versions() -> dict[str, str]:
    """Of what makes the numbers."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def models(instrument: Instrument) -> dict[str, Any]:
    """By role: class, hash of the weights, dtype, and the scheduler that the runs' own were made from."""
    found: dict[str, Any] = {}
    for role, sampler in instrument.samplers.items():
        pipeline = sampler.pipeline
        config = {key: value for key, value in pipeline.scheduler.config.items() if not key.startswith("_")}
        found[role] = {
            "class": type(pipeline).__name__,
            "weights_sha256": pipelines.fingerprint(pipeline),
            "dtype": str(pipelines.denoiser(pipeline).dtype),
            "scheduler": type(pipeline.scheduler).__name__,
            "scheduler_config": config,
        }
    if instrument.adapters:
        found[REFERENCE] = "the model with its adapters off"
    return found


def configuration(plan: Plan, instrument: Instrument, known: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a measurement: with another one of these, pairs are other pairs."""
    return {
        "plan": plan.record(),
        "rewards": list(instrument.rewards),
        "models": dict(known),
        "versions": versions(),
    }


def provenance(
    identity: Mapping[str, Any], results: Results, clock: Clock, batch_size: int, processes: int, device: str
) -> dict[str, Any]:
    """The configuration, and how this run went."""
    return {
        **identity,
        "ode": "gddim at eta = 0: DDIM, or Euler's method for flow matching",
        "last_step": last_step(results),
        "x_T": "CPU, fp32; seeded by the measurement's seed, the prompt's text and the sample's number",
        "batch_size": batch_size,
        "processes": processes,
        "device": device,
        "time": clock.record(),
    }


def last_step(results: Results) -> dict[str, Any]:
    """What the last step does to the images that are scored: the standard deviation of the noise it leaves in."""
    plan = results.plan
    found = {
        str(steps): {
            f"{eta:g}": cell.last_std[e]
            for (role, guidance, steps_of), cell in results.cells.items()
            if (role, guidance, steps_of) == (MODEL, plan.guidance, steps)
            for e, eta in enumerate(plan.etas)
        }
        for steps in plan.steps
    }
    noisy = any(std > 0 for by_eta in found.values() for std in by_eta.values())
    return {
        "convention": "noise is left in" if noisy else "no noise: it goes to sigma = 0",
        "std_by_steps_and_eta": found,
    }
