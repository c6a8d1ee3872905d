"""Kill a small run with SIGKILL at random instants, let it go on, and compare it with one that was left alone.

``python tests/ddpo_kill.py MODELS OUT KILLS SEED``, where MODELS is what ``ddpo_cases.files`` wrote. Prints how many
kills there were in which rounds; any difference is an error.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import ddpo_cases as cases
import numpy as np
import pipelines as tiny
import torch
from safetensors.torch import load_file

from empirical.rewards import jpeg
from empirical.training.ddpo import train

EVERYTHING = {
    "epochs": 3, "updates": 2, "eta": (1.2,), "ema": 0.9, "kl_weight": 0.01, "kl_target": 0.001, "warmup": 3,
    "train_steps": 2, "evaluate_every": 2, "keep": 2,
}  # fmt: skip


def noisy(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """A reward that draws from every global generator, except on held-out prompts."""
    noise = [random.random() + np.random.random() + float(torch.rand(())) for _ in prompts]  # noqa: NPY002
    return tiny.redness(images, prompts) + (prompts[0] not in cases.HELD_OUT) * torch.tensor(noise)


jpeg.jpeg_compressibility = noisy


def attempt(given: dict[str, Path], out: Path, seconds: float | None) -> bool:
    """Run in a process of its own, killed after ``seconds``; whether it finished before that."""
    child = os.fork()
    if not child:
        code = 1
        try:
            train(cases.config(given, out, **EVERYTHING), cases.silent)
            code = 0
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a run failed")
    return os.WIFEXITED(status)


def outcome(out: Path) -> dict[str, object]:
    """Everything that a run leaves behind, without its seconds."""
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    last = sorted((out / "checkpoints").iterdir())[-1]
    files = out.glob("evaluations/*/*.jsonl")
    return {
        "log": [{key: value for key, value in line.items() if key != "seconds"} for line in log],
        "weights": (last / "weights.safetensors").read_bytes(),
        "state": flat(torch.load(last / "state.pt", weights_only=True)),
        "saved": flat(load_file(next((out / "weights").glob("*.safetensors")))),
        "card": (out / "weights" / "README.md").read_text(),
        "pairs": {path.parent.name: sorted(path.read_text().splitlines()) for path in files},
    }


def flat(value: object) -> object:
    """Plain data, for comparison."""
    if isinstance(value, dict):
        return {key: flat(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [flat(one) for one in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def main(models: str, out: str, kills: str, seed: str) -> None:
    """Rounds until there were enough kills."""
    given = {"model": Path(models) / "model", "prompts": Path(models) / "train.txt",
             "evaluation_prompts": Path(models) / "held_out.txt"}  # fmt: skip
    draw, folder = random.Random(int(seed)), Path(out)
    began = time.perf_counter()
    attempt(given, folder / "alone", None)
    length = time.perf_counter() - began
    expected, rounds = outcome(folder / "alone"), []
    while sum(rounds) < int(kills):
        place, killed = folder / f"round-{len(rounds)}", 0
        while sum(rounds) + killed < int(kills) and not attempt(given, place, draw.uniform(0, length)):
            killed += 1
        attempt(given, place, None)
        found = outcome(place)
        different = [key for key in expected if expected[key] != found[key]]
        if different:
            raise SystemExit(f"round {len(rounds)}, {killed} kills: {', '.join(different)} differ")
        rounds.append(killed)
    print(f"{sum(rounds)} kills in rounds of {rounds}, a run takes {length:.1f} s: no bit differs")


if __name__ == "__main__":
    main(*sys.argv[1:])
