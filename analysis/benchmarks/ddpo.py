"""What an epoch of ``train_ddpo`` costs: ``python -m analysis.benchmarks.ddpo``, minutes on an idle machine.

Beyond the forward and backward passes of the denoiser, which are timed inside the epoch; and beside TRL's DDPOTrainer,
the last release that has one, at the same model, batch, steps, trained steps and optimiser, each in processes of its
own, in turn. TRL is installed into ``--environment`` with its own requirements.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import tyro

from analysis.command import console, run
from empirical.meter.clock import Clock
from empirical.shapes.model import WEIGHTS
from empirical.training import ddpo as train_ddpo
from empirical.training.ddpo_config import DDPOConfig
from empirical.training.prompts import training
from empirical.training.run import Run, start

TRL = ("trl==0.23.1", "diffusers<0.36", "transformers<5", "peft", "pillow")
GUIDANCE, STEPS, BATCH, MICRO, RANK = 4.0, 10, 64, 16, 16


def new_run(out: str, epochs: int) -> Run:
    """Low-rank training of the embedded model on the JPEG reward, without evaluation."""
    config = DDPOConfig(
        out=Path(out), reward="jpeg_compressibility", epochs=epochs, batch=BATCH, group=4, micro_batch=MICRO,
        steps=STEPS, guidance=GUIDANCE, rank=RANK, tracker="none", kl_weight=0.0, std_power=0.0,
        advantage="prompt", also=(), ema=None,
    )  # fmt: skip
    return start(config, lambda text: None)


def overhead(repeat: int) -> tuple[float, float, float]:
    """See ``beyond_passes``, of DDPO."""
    with tempfile.TemporaryDirectory() as out:
        return beyond_passes(new_run(out, repeat + 1), train_ddpo.iteration, repeat)


def beyond_passes(run: Run, epoch: Callable[[Run, int], None], repeat: int) -> tuple[float, float, float]:
    """Mean seconds of an epoch after a warm-up, what it takes beyond the denoiser, and of that the decoder; as shares
    of the denoiser's time.

    The denoiser's forward and backward passes are timed where they happen, so that a drifting machine slows both.
    """  # noqa: D205
    seconds = passes = decoding = 0.0
    backward, spent = run.accelerator.backward, [0.0]

    def timed(loss: torch.Tensor) -> None:
        began = time.perf_counter()
        backward(loss)
        spent[0] += time.perf_counter() - began

    run.accelerator.backward = timed
    for number in range(repeat + 1):
        clock, decoder, spent[0] = Clock(), Clock(), 0.0
        with clock.watch([run.policy.network]), decoder.watch([run.pipeline.vae.decoder]):
            epoch(run, number)
        if number:
            seconds, passes = seconds + clock.total, passes + clock.networks + spent[0]
            decoding += decoder.networks
    return seconds / repeat, seconds / passes - 1, decoding / passes


def ours(epochs: int) -> dict[str, Any]:
    """Seconds of epochs in this process, and its peak memory."""
    seconds = []
    with tempfile.TemporaryDirectory() as out:
        run = new_run(out, epochs)
        for number in range(epochs):
            began = time.perf_counter()
            train_ddpo.iteration(run, number)
            seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def theirs_python(environment: Path) -> Path:
    """The interpreter of TRL's environment, which is made if it is not there."""
    python = environment / "bin" / "python"
    if not (environment / ".complete").is_file():
        venv.create(environment, with_pip=True, clear=True)
        torch_version = torch.__version__.split("+")[0]
        subprocess.run([python, "-m", "pip", "install", "-q", f"torch=={torch_version}", *TRL], check=True)
        (environment / ".complete").touch()
    return python


def readable(folder: Path) -> str:
    """A copy of the embedded model whose tokenizer has the two files that TRL's release of transformers reads."""
    copied = folder / "model"
    shutil.copytree(WEIGHTS, copied)
    words = json.loads((copied / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (copied / "tokenizer" / "vocab.json").write_text(json.dumps(words["vocab"]), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in words["merges"]]
    (copied / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    return str(copied)


def measured(command: list[str]) -> dict[str, Any]:
    """What a process printed in its last line."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"error: {' '.join(command[:3])} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def main(
    repeat: Annotated[int, tyro.conf.arg(help="Epochs that count, of each side.")] = 7,
    rounds: Annotated[int, tyro.conf.arg(help="Processes of each side in the comparison; 0 leaves TRL out.")] = 3,
    environment: Annotated[Path, tyro.conf.arg(help="Where TRL is installed.")] = Path("build/trl"),
    alone: Annotated[bool, tyro.conf.arg(help="Print this side's line of the comparison and stop.")] = False,
) -> None:
    """Measure and print."""
    if alone:
        print(json.dumps(ours(repeat)))
        return
    output = console()
    whole, share, decoding = overhead(repeat)
    told = f"an epoch: {whole:.2f} s, {share:.1%} more than the denoiser's passes, {decoding:.1%} of it the decoder"
    output.print(told, highlight=False)
    if not rounds:
        return
    for name, results in compared(theirs_python(environment), repeat, rounds).items():
        seconds = statistics.median(t for one in results for t in one["seconds"][1:])
        peak = statistics.median(one["peak_mb"] for one in results)
        output.print(f"{name}: {seconds:.2f} s an epoch, peak memory {peak:.0f} MB", highlight=False)


def compared(python: Path, epochs: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What each side printed, process by process in turn."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = {
            "model": readable(Path(folder)), "prompts": training(None, "embedded"), "epochs": epochs, "batch": BATCH,
            "micro_batch": MICRO, "steps": STEPS, "guidance": GUIDANCE, "rank": RANK,
        }  # fmt: skip
        sides = {
            "train_ddpo": [sys.executable, "-m", "analysis.benchmarks.ddpo", "--alone", "--repeat", str(epochs)],
            "TRL 0.23.1": [str(python), str(Path(__file__).with_name("ddpo_trl.py")), json.dumps(wanted)],
        }
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, command in sides.items():
                found[name].append(measured(command))
    return found


if __name__ == "__main__":
    run(main, "python -m analysis.benchmarks.ddpo")
