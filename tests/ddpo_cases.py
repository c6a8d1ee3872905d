"""A small run of DDPO that tests vary: a tiny Stable Diffusion, four steps, epochs of eight samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pipelines as tiny

from empirical.meter.draws import Draws
from empirical.training import checkpoint, tune
from empirical.training.ddpo import train
from empirical.training.ddpo_config import DDPOConfig
from empirical.training.policy import Policy
from empirical.training.rollout import roll

__all__ = ["HELD_OUT", "PROMPTS", "checkpoint", "config", "files", "path", "policy", "run", "silent", "train"]
PROMPTS = ["a red cat", "two dogs", "a bird", "a fish"]
HELD_OUT = ["a house", "a tree"]


def files(folder: Path) -> dict[str, Path]:
    """Prompt files and a saved pipeline."""
    (folder / "train.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    (folder / "held_out.txt").write_text("\n".join(HELD_OUT), encoding="utf-8")
    tiny.stable_diffusion().save_pretrained(folder / "model")
    return {"model": folder / "model", "prompts": folder / "train.txt", "evaluation_prompts": folder / "held_out.txt"}


def config(given: dict[str, Path], out: Path, **changes: Any) -> DDPOConfig:
    """Settings of the small run."""
    settings = {
        **given, "model": str(given["model"]), "out": out, "steps": 4, "guidance": 3.0, "epochs": 2, "batch": 8,
        "group": 2, "micro_batch": 4, "rank": 2, "evaluate_every": 100, "tracker": "none", "learning_rate": 1e-2,
        "reward": "jpeg_compressibility", "also": (), "advantage": "prompt", "std_power": 0.0, "kl_weight": 0.0,
        "ema": None, **changes,
    }  # fmt: skip
    return DDPOConfig(**settings)


def silent(text: str) -> None:
    """Say nothing."""


def run(given: dict[str, Path], out: Path, **changes: Any) -> Any:
    """The finished small run."""
    return train(config(given, out, **changes), silent)


def policy(steps: int = 4, guidance: float = 3.0, eta: Any = 1.0, lora: bool = True, **more: Any) -> Policy:
    """A policy with adapters that already do something."""
    pipeline = tiny.stable_diffusion()
    if lora:
        tune.add_lora(pipeline, 2, seed=0)
    return Policy(pipeline, steps, eta, guidance, **more)


def path(policy: Policy, n: int = 3) -> Any:
    """A trajectory of the first prompts."""
    return roll(policy, PROMPTS[:n], list(range(n)), Draws(0))
