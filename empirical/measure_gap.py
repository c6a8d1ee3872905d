"""Measure the reward gap between ODE and SDE sampling of a text-to-image pipeline: ``python -m empirical.measure_gap``.

Without arguments it measures the model that this repository brings; ``--model`` takes any diffusers folder or hub id.
Interrupted, it goes on where it was. Several processes share the work: ``accelerate launch --multi_gpu -m
empirical.measure_gap --device cuda``; on CPUs, where accelerate starts none, ``torchrun -m empirical.measure_gap``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from analysis.command import console, run
from empirical.models import ADAPTERS, BUNDLED, EMBEDDED

BATCH, SMALL_BATCH = 32, 8


def main(
    model: Annotated[str, tyro.conf.arg(help="A diffusers folder, a hub id, 'embedded', 'embedded-early'.")] = EMBEDDED,
    prompts: Annotated[
        Path | None, tyro.conf.arg(help="A text file with a prompt a line; the model's own if none.")
    ] = None,
    rewards: Annotated[tuple[str, ...], tyro.conf.arg(help="Such as jpeg_compressibility or pick_score@PATH.")] = (),
    etas: Annotated[tuple[float, ...], tyro.conf.arg(help="Stochasticity of the SDE runs, above 0.")] = (0.5, 1.0, 1.5),
    steps: Annotated[tuple[int, ...], tyro.conf.arg(help="Step counts; two or more give the limit of many.")] = (
        10,
        20,
        50,
    ),
    samples: Annotated[int, tyro.conf.arg(help="x_T per prompt.")] = 4,
    draws: Annotated[int, tyro.conf.arg(help="SDE runs per x_T and eta.")] = 1,
    guidance: Annotated[float | None, tyro.conf.arg(help="Guidance in use; the class's own if none.")] = None,
    reference: Annotated[
        str | None, tyro.conf.arg(help=f"The model before training: a folder, an id, or {ADAPTERS!r} for LoRA off.")
    ] = None,
    half_width: Annotated[
        float | None, tyro.conf.arg(help="Of the first reward's intervals: a pilot fixes the samples beforehand.")
    ] = None,
    level: Annotated[float, tyro.conf.arg(help="Of confidence.")] = 0.95,
    sampler: Annotated[str, tyro.conf.arg(help="Of the SDE runs.")] = "gddim",
    seed: Annotated[int, tyro.conf.arg(help="Of everything random.")] = 0,
    size: Annotated[int | None, tyro.conf.arg(help="Pixels of the images; the pipeline's own if none.")] = None,
    batch_size: Annotated[
        int | None, tyro.conf.arg(help=f"Pairs that run together; {BATCH}, or {SMALL_BATCH} of large images, if none.")
    ] = None,
    device: Annotated[str, tyro.conf.arg(help="Torch device; 'cuda' gives each process its own.")] = "cpu",
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], tyro.conf.arg(help="Of the networks.")] = "float32",
    out: Annotated[Path, tyro.conf.arg(help="Folder of results and report; run again to resume.")] = Path("build/gap"),
) -> None:
    """Measure the gap and write report.json, figures and report.html."""
    from analysis.job import checked_device
    from empirical import meter
    from empirical.defaults import default_guidance, default_rewards, read_prompts
    from empirical.meter.pipelines import DTYPES, load
    from empirical.meter.progress import Bars

    world, output = meter.World.found(), console()
    try:
        place = checked_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" else device)
        pipeline = load(model, place, DTYPES[dtype])
        before = reference if reference in (None, ADAPTERS) else load(reference, place, DTYPES[dtype])
        measurement = meter.measure_gap(
            pipeline,
            read_prompts(prompts, model),
            rewards or default_rewards(model),
            etas,
            steps,
            samples,
            out=out,
            reference=before,
            guidance=default_guidance(model) if guidance is None else guidance,
            draws=draws,
            seed=seed,
            sampler=sampler,
            size=size,
            half_width=half_width,
            level=level,
            batch_size=(BATCH if model in BUNDLED else SMALL_BATCH) if batch_size is None else batch_size,
            progress=Bars(output) if world.rank == 0 else None,
        )
        if world.rank == 0:
            finish(measurement, model, output)
    except KeyboardInterrupt:
        raise SystemExit(
            f"interrupted; what is finished is in {out}, and the same command goes on from there"
        ) from None
    except (ValueError, TypeError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error


def finish(measurement: Any, model: str, output: Console) -> None:
    """Print the tables and write the report."""
    from empirical.meter import write_report
    from empirical.meter.terminal import show

    show(measurement.summary, measurement.provenance["time"], output)
    title = model if model in BUNDLED or not Path(model).exists() else Path(model).name
    output.print(f"report: {write_report(measurement, title)}", highlight=False)


if __name__ == "__main__":
    run(main, "python -m empirical.measure_gap")
