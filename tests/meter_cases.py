"""A small measurement that the tests of the meter vary."""

import pipelines as tiny

from empirical.meter import measure_gap

PROMPTS = ["a red cat", "two dogs", "a bird"]
PAIRS = [(prompt, sample) for prompt in PROMPTS for sample in range(2)]


def gap(pipeline, out, rewards=tiny.redness, **changes):
    settings = {"etas": [0.5, 1.5], "steps": [2, 3], "samples_per_prompt": 2, "guidance": 3.0, **changes}
    return measure_gap(pipeline, settings.pop("prompts", PROMPTS), rewards, out=out, **settings)


def rewards_of(measurement):
    return {cell: (found.ode.tolist(), found.sde.tolist()) for cell, found in measurement.results.cells.items()}
