"""One update of a small run in this or several processes; the first one saves the gradient: TRAINER MODELS OUT FILE."""

import sys
from pathlib import Path

import ddpo_cases as cases
import torch

from empirical.training import ddpo, improve, mixgrpo
from empirical.training.mixgrpo_config import MixGRPOConfig

trainer, (models, out, file) = sys.argv[1], map(Path, sys.argv[2:])
original, kept = improve.check_gradients, []


def keep(parameters, max_norm):
    kept.append([parameter.grad.clone() for parameter in parameters])
    return original(parameters, max_norm)


improve.check_gradients = keep
given = {"model": models / "model", "prompts": models / "train.txt", "evaluation_prompts": models / "held_out.txt"}
changes = {"epochs": 2, "updates": 2, "micro_batch": 2, "kl_weight": 0.01, "learning_rate": 1e-4}
config, train = cases.config(given, out, **changes), ddpo.train
if trainer == "mixgrpo":
    own = {"window": 2, "position": "random", "interval": 1, "shared_noise": True, "steps": 6, "flash": 1}
    common = {key: value for key, value in vars(config).items() if key not in ("advantage", "advantage_clamp")}
    config, train = MixGRPOConfig(**{**common, **own}), mixgrpo.train
run = train(config, cases.silent)
if run.accelerator.is_main_process:
    torch.save({"processes": run.accelerator.num_processes, "gradients": kept}, file)
