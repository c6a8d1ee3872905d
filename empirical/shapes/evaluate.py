"""The frozen evaluation of an embedded model: ``python -m empirical.shapes.evaluate``, minutes on one CPU core.

Prompts of 200 scenes of every caption family that no training saw, one picture each by the ODE at 50 steps, judged by
the checker: strict and graded alignment, without guidance and with it. Beside them what the checker says of drawn
pictures with their own captions (its ceiling), with those of other scenes (its floor), and of pictures that only went
through the autoencoder. Writes numbers, a picture of samples and the model card.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.nn.functional import interpolate, pad

from analysis.command import run
from analysis.files import atomically, write_text
from empirical.shapes import alignment, card, model
from empirical.shapes.draw import draw
from empirical.shapes.scene import FAMILIES, scene
from empirical.shapes.verify import Verdict, verify

HERE = Path(__file__).parent
PROMPTS = 101  # the seed of the scenes asked for; training watches those of seed 1
Z = 1.959964  # of a 95 % interval


def wilson(hits: int, n: int, z: float = Z) -> tuple[float, float]:
    r"""The Wilson interval of a share: all p with ``|hits/n - p| <= z sqrt(p (1 - p) / n)``.

    Raises:
        ValueError: no trials, or more hits than trials.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"hits must lie in 0, ..., n with n at least 1, got {hits} of {n}")
    share, half = hits / n, z**2 / (2 * n)
    wide = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, (share + half - wide) / (1 + 2 * half)), min(1.0, (share + half + wide) / (1 + 2 * half))


def summary(verdict: Verdict) -> dict[str, Any]:
    """Counts and shares with 95 % intervals of one batch of verdicts."""
    n, hits = len(verdict.passed), int(verdict.passed.sum())
    error = verdict.score.std().item() / math.sqrt(n) if n > 1 else math.nan
    return {
        "n": n,
        "strict": hits / n,
        "strict_interval": wilson(hits, n),
        "graded": verdict.score.mean().item(),
        "graded_error": error,
    }


@torch.no_grad()
def references(pipeline: Any, n: int) -> dict[str, dict[str, Verdict]]:
    """What the checker says of drawn pictures: true captions, those of other scenes, and after the autoencoder."""
    found: dict[str, dict[str, Verdict]] = {"drawn": {}, "other captions": {}, "autoencoder": {}}
    for family in FAMILIES:
        texts = alignment.prompts(n, family, PROMPTS)
        pictures = draw([scene(PROMPTS, index, family) for index in range(n)])
        again = (pipeline.vae.decode(pipeline.vae.encode(2 * pictures - 1).latents).sample / 2 + 0.5).clamp(0, 1)
        found["drawn"][family] = verify(pictures, texts)
        found["other captions"][family] = verify(pictures, texts[1:] + texts[:1])
        found["autoencoder"][family] = verify(again, texts)
    return found


def sheet(pictures: Tensor, columns: int, scale: int = 3) -> Image.Image:
    """Pictures (n, 3, h, w) in rows, enlarged without smoothing, with a light frame each."""
    framed = pad(interpolate(pictures, scale_factor=scale), (2, 2, 2, 2), value=0.8)
    rows = [torch.cat(list(row), dim=-1) for row in framed.split(columns)]
    whole = torch.cat([pad(row, (0, rows[0].shape[-1] - row.shape[-1])) for row in rows], dim=-2)
    return Image.fromarray((whole.movedim(0, -1) * 255).round().byte().numpy())


def evaluate(pipeline: Any, n: int, steps: int, guidances: tuple[float, ...]) -> dict[str, Any]:
    """All numbers, as plain data."""
    found = references(pipeline, n)
    for guidance in guidances:
        measured = alignment.measure(pipeline, n, steps, guidance, prompt_seed=PROMPTS)
        found[f"model, guidance {guidance:g}"] = measured
    return {
        "steps": steps,
        "prompt_seed": PROMPTS,
        "sampler": type(pipeline.scheduler).__name__ + ", the ODE",
        "parameters": {
            name: sum(weight.numel() for weight in part.parameters())
            for name, part in pipeline.components.items()
            if isinstance(part, torch.nn.Module)
        },
        "results": {
            of: {family: summary(verdict) for family, verdict in by_family.items()} for of, by_family in found.items()
        },
    }


def main(
    folder: Annotated[Path, tyro.conf.arg(name="model", help="Folder of the pipeline.")] = model.WEIGHTS,
    n: Annotated[int, tyro.conf.arg(help="Prompts of each caption family.")] = 200,
    steps: Annotated[int, tyro.conf.arg(help="Of the ODE sampler.")] = 50,
    guidances: Annotated[tuple[float, ...], tyro.conf.arg(help="Guidance scales, the recommended one last.")] = (
        1.0,
        alignment.GUIDANCE,
    ),
    out: Annotated[Path, tyro.conf.arg(help="Folder of evaluation.json, samples.png and README.md.")] = HERE,
    threads: Annotated[int, tyro.conf.arg(help="Of torch.")] = 1,
) -> None:
    """Evaluate an embedded model and write its card."""
    torch.set_num_threads(threads)
    pipeline = model.load_pipeline(folder)
    numbers = evaluate(pipeline, n, steps, guidances)
    samples = {family: alignment.prompts(12, family, PROMPTS) for family in FAMILIES}
    pictures = [alignment.generate(pipeline, texts, steps, guidances[-1]) for texts in samples.values()]
    numbers["samples"] = samples
    shown = sheet(torch.cat(pictures), 12)
    atomically(out / "samples.png", lambda path: shown.save(path, format="PNG"))
    write_text(out / "evaluation.json", json.dumps(numbers, indent=1) + "\n")
    write_text(out / "README.md", card.write(numbers, json.loads((folder / "training.json").read_text())))
    console = Console(width=120)
    for of, by_family in numbers["results"].items():
        told = ", ".join(f"{family} {100 * one['strict']:.1f} %" for family, one in by_family.items())
        console.print(f"{of}: strict {told}", highlight=False)


if __name__ == "__main__":
    run(main, "python -m empirical.shapes.evaluate")
