"""How much of the reward the noise of a window decides, on the embedded flow model, by the window's place.

Samples of a prompt share x_T in groups, and only the window is stochastic. With V_g the variance of the reward inside
groups and V_p that inside prompts, over groups, the share V_g / V_p is what a policy gradient of the window can act on;
the rest is x_T's. Both are unbiased; intervals are the jackknife's over prompts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from analysis.figure import Program, Progress, Settings
from analysis.programs.window import STEPS, WIDTH
from analysis.series import DASHED
from analysis.style import PAGE, look, panels, title
from empirical.meter.draws import Draws
from empirical.meter.pipelines import load
from empirical.models import FLOW
from empirical.rewards import load as load_reward
from empirical.rewards import score
from empirical.training.policy import Policy
from empirical.training.prompts import training as captions
from empirical.training.rollout import decode, roll
from empirical.training.window import Window
from gapbound._validate import Array

REWARDS = ("alignment", "jpeg_compressibility")
ETA, GUIDANCE, GROUP, GROUPS = 1.0, 1.0, 4, 4
Z95 = 1.959963984540054


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """The share of each reward by the step at which the window starts."""
    starts, n = ([0, 10], 8) if settings.quick else ([*range(0, STEPS - WIDTH, 4)], 64)
    pipeline = load(FLOW)
    pipeline.set_progress_bar_config(disable=True)
    prompts = captions(None, FLOW)[:n]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in REWARDS}
    for k, start in enumerate(starts):
        images = _images(pipeline, prompts, start, settings.seed_for("window", start))
        asked = [prompt for prompt in prompts for _ in range(GROUP * GROUPS)]
        for name in REWARDS:
            values = score(load_reward(name), images, asked).double().numpy()
            rows[name].append(share(values.reshape(len(prompts), GROUPS, GROUP)))
        progress((k + 1) / len(starts))
    return {
        "model": FLOW, "eta": ETA, "guidance": GUIDANCE, "steps": STEPS, "width": WIDTH, "prompts": len(prompts),
        "groups": GROUPS, "group": GROUP, "start": starts,
        "rewards": {name: {key: [row[key] for row in found] for key in found[0]} for name, found in rows.items()},
    }  # fmt: skip


def _images(pipeline: Any, prompts: tuple[str, ...], start: int, seed: int) -> torch.Tensor:
    policy = Policy(pipeline, STEPS, Window(STEPS, WIDTH, start, position="fixed").profile(0, ETA), GUIDANCE)
    each, found = GROUP * GROUPS, []
    for first in range(0, len(prompts), 4):
        asked = [prompt for prompt in prompts[first : first + 4] for _ in range(each)]
        path = roll(policy, asked, [*range(first * each, first * each + len(asked))], Draws(seed), GROUP)
        found.append(decode(pipeline, path.latents[-1]))
    return torch.cat(found)


def share(rewards: Array) -> dict[str, float]:
    """V_g / V_p with a 95 % interval; rewards of shape (prompts, groups, members)."""
    prompts, members = rewards.shape[0], rewards.shape[2]
    inside = rewards.var(-1, ddof=1).mean(1)
    means = rewards.mean(-1)
    between = means.var(-1, ddof=1) - inside / members  # of the groups' true means
    whole = inside + between
    left_out = (inside.sum() - inside) / (whole.sum() - whole)
    error = float(np.sqrt((prompts - 1) / prompts * ((left_out - left_out.mean()) ** 2).sum()))
    value = float(inside.sum() / whole.sum())
    return {"share": value, "low": value - Z95 * error, "high": value + Z95 * error}


def draw(data: dict[str, Any]) -> Figure:
    """Shares by the window's place."""
    figure, axes = panels(1, 1, PAGE / 2, 2.6)
    for name, shape in zip(data["rewards"], (look(1.0), look(2.0)), strict=True):
        one = data["rewards"][name]
        value = np.array(one["share"])
        error = [value - one["low"], np.array(one["high"]) - value]
        axes[0, 0].errorbar(data["start"], value, error, label=name.replace("_", " "), **{**shape.points, **shape.line})
    axes[0, 0].axhline(1.0, **DASHED)
    axes[0, 0].set(ylim=(0, None), xlabel="first step of the window", ylabel="share of the reward's variance")
    axes[0, 0].legend()
    title(axes[0, 0], "a", "what a window decides, embedded")
    return figure


PROGRAM = Program("window_embedded", compute, draw)
