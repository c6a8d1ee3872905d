"""Pictures for the report: the images of extreme prompts, made again from their recorded random numbers."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image

from analysis.style import paper
from empirical.meter.generate import Run
from empirical.meter.plan import MODEL, Plan
from empirical.meter.run import Instrument
from empirical.rewards import to_pil

LARGEST = 256  # pixels that the report shows
AGREES = 1e-2  # how far a reward may be from the recorded one, relative: half precision in batches of another size


@dataclass(frozen=True)
class Picture:
    """An image with what to say of it: ``width`` in pixels as it was made, rewards as they were recorded."""

    png: bytes
    width: int
    eta: float
    rewards: Sequence[float]


def pictures(instrument: Instrument, plan: Plan, extremes: Sequence[Mapping[str, Any]]) -> list[list[Picture]]:
    """For each extreme prompt the images of the ODE and of each eta's first SDE draw, from one x_T.

    Raises:
        ValueError: a reward is not what was recorded: the random numbers or the model are no longer the same.
    """
    instrument = instrument.seeded(plan.seed)
    shown: list[list[Picture]] = [[] for _ in extremes]
    for eta in (0.0, *plan.etas):
        for place, row in zip(shown, extremes, strict=True):
            pair = (plan.prompts[row["prompt"]], row["sample"])
            run = Run(eta, int(row["steps"]), float(row["guidance"]))
            with torch.no_grad():
                made = instrument.generate(MODEL, [pair], run)
                found = instrument.score(made, [pair], run)[0].tolist()
            recorded = row["ode"] if eta == 0 else row["sde"][plan.etas.index(eta)]
            for name, now, before in zip(instrument.rewards, found, recorded, strict=True):
                if not math.isclose(now, before, rel_tol=AGREES, abs_tol=AGREES):
                    raise ValueError(
                        f"{name} of prompt {pair[0]!r}, sample {pair[1]} ({run}) is {now:g} now and was {before:g} "
                        "when it was recorded; the model or a package is not the one that was measured"
                    )
            place.append(Picture(_png(to_pil(made.images)[0]), made.images.shape[-1], eta, recorded))
    return shown


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image that needs no file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def figure_png(figure: Figure) -> bytes:
    """A figure as PNG, in the shared style."""
    buffer = io.BytesIO()
    with paper():
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
