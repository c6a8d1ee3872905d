"""One update of a small run in this or several processes; the first one saves the gradient: MODELS OUT FILE."""

import sys
from pathlib import Path

import ddpo_cases as cases
import torch

from empirical.train_ddpo import train
from empirical.training import improve

models, out, file = map(Path, sys.argv[1:])
original, kept = improve.check_gradients, []


def keep(parameters, max_norm):
    kept.append([parameter.grad.clone() for parameter in parameters])
    return original(parameters, max_norm)


improve.check_gradients = keep
given = {"model": models / "model", "prompts": models / "train.txt", "evaluation_prompts": models / "held_out.txt"}
changes = {"epochs": 2, "updates": 2, "micro_batch": 2, "kl_weight": 0.01, "learning_rate": 1e-4}
run = train(cases.config(given, out, **changes), cases.silent)
if run.accelerator.is_main_process:
    torch.save({"processes": run.accelerator.num_processes, "gradients": kept}, file)
