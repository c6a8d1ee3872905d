"""Train the embedded model from nothing: ``python -m empirical.shapes.pretrain``, about two hours on one CPU core.

First the autoencoder, which is then frozen; then denoiser and text encoder together on its latents. Every step draws
from a seed of its own and checkpoints are whole or absent, so a run that was stopped goes on as if nothing had
happened. The weights of the sampler are an exponential moving average of the trained ones.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from rich.console import Console
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from analysis.command import run
from analysis.files import write_text
from empirical.shapes import alignment, autoencoder, checkpoint, data, model, tokenizer
from empirical.shapes.diffusion import Diffusion
from empirical.shapes.flow import Flow
from empirical.shapes.muon import Muon

BUILD = Path("build/shapes")  # not committed


@dataclass(frozen=True)
class Training:
    """One run of the denoiser.

    Args:
        batch: scenes a step.
        rate: of the orthogonal steps of the UNet's hidden layers, constant after 200 steps of warmup.
        adam: rate of AdamW for the other weights, likewise.
        drop: probability of leaving the caption out.
        ema: decay of the moving average of the weights.
        scenes: of the training set.
        prediction: ``epsilon`` or ``v_prediction`` of a UNet, or ``flow`` of Stable Diffusion 3's transformer.
        width: of the denoiser.
        blocks: of the UNet, see ``model.denoiser``; for a transformer a J, joint attention, for each layer.
        seed: of weights and draws; even.
    """

    batch: int = 64
    rate: float = 0.01
    adam: float = 1e-3
    drop: float = 0.1
    ema: float = 0.999
    scenes: int = 60_000
    prediction: str = "v_prediction"
    width: int = 80
    blocks: str = "DC"
    seed: int = 0

    def factor(self, step: int) -> float:
        """Of both rates: linear warmup, then 1."""
        return min(1.0, (step + 1) / 200)


class Run:
    """The state of a training: networks, their moving average, optimiser, step.

    Args:
        training: the parameters.
        source: of the batches.
        path: of the checkpoint; goes on from what lies there.
    """

    def __init__(self, training: Training, source: data.Source, path: Path) -> None:
        """Random weights, or those of the checkpoint."""
        self.training, self.source, self.path = training, source, path
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.model = untrained(training)
        self.model.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = Muon(*split(self.model), lr=1.0, spectral=training.rate, adam=training.adam)
        self.step = 0
        state = checkpoint.resume(path, asdict(training))
        if state:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])

    def keep(self) -> None:
        """Write the checkpoint."""
        parts = {"model": self.model, "average": self.average, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()}
        checkpoint.keep(self.path, asdict(self.training), {"step": self.step, **state})

    def advance(self) -> Tensor:
        """One step; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.factor(self.step)
        self.model.train()
        with fast():
            loss = self.model.loss(self.source.batch(self.step, self.training.batch))
        self.optimizer.zero_grad(set_to_none=True)
        with fast():
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(self.training.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return loss.detach()


def untrained(training: Training) -> Diffusion | Flow:
    """Networks with random weights.

    Raises:
        ValueError: blocks that the denoiser does not have, or a width that its heads do not divide.
    """
    if training.prediction != "flow":
        return Diffusion(tokenizer.new(), training.prediction, training.width, training.blocks)
    if set(training.blocks) != {"J"}:
        raise ValueError(f"a flow model has a J for each layer as its blocks, such as JJJJ, got {training.blocks!r}")
    if training.width % model.HEAD:
        raise ValueError(f"the width of a flow model is a multiple of {model.HEAD}, got {training.width}")
    return Flow(tokenizer.new(), training.width, len(training.blocks))


OUTER = (  # the first and last layers of denoisers
    "conv_in", "conv_out", "time_embedding", "pos_embed", "time_text_embed", "context_embedder", "norm_out", "proj_out",
)  # fmt: skip


def split(model: Diffusion | Flow) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices and convolutions inside the denoiser, and everything else: its first and last layers, text, biases."""
    named = model.denoiser.named_parameters()
    matrices = [part for name, part in named if part.ndim > 1 and not name.startswith(OUTER)]
    chosen = {id(part) for part in matrices}
    return matrices, [part for part in model.parameters() if id(part) not in chosen]


@contextlib.contextmanager
def fast() -> Iterator[None]:
    """Bfloat16 products, and attention without the fused kernel: on a CPU its backward pass is several times slower."""
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def source_of(vae: AutoencoderTiny, training: Training, build: Path) -> data.Source:
    """The batches; latents are computed once for an autoencoder and kept in the build folder."""
    parts = [*vae.state_dict().values(), autoencoder.pictures(training.seed, 0, 100)]  # the networks and what they see
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()
    made_by = {"digest": digest, "scenes": training.scenes, "seed": training.seed}
    path = build / f"latents-{digest[:8]}-{training.seed}-{training.scenes}.pt"
    state = checkpoint.resume(path, made_by)
    if state is None:
        state = {"latents": data.latents_of(vae, training.seed, training.scenes)}
        checkpoint.keep(path, made_by, state)
    return data.Source(state["latents"], data.token_table(tokenizer.new()), training.seed, training.drop)


def watch(run: Run, vae: AutoencoderTiny, n: int, guidance: float) -> dict[str, float]:
    """Strict and graded alignment of the averaged weights, 20 ODE steps."""
    with fast():
        found = alignment.measure(run.average.pipeline(vae), n, 20, guidance)
    strict = {family: verdict.passed.float().mean().item() for family, verdict in found.items()}
    graded = {f"{family}_graded": verdict.score.mean().item() for family, verdict in found.items()}
    return {name: round(value, 4) for name, value in {**strict, **graded}.items()}


def train(run: Run, steps: int, every: int, report: Callable[[dict[str, Any]], None], look: Callable[[], dict]) -> None:
    """Go on to the step, with a checkpoint and a report every so many."""
    total, started = torch.zeros(()), time.monotonic()
    while run.step < steps:
        total += run.advance()
        if run.step % every == 0 or run.step == steps:
            run.keep()
            spent = round(time.monotonic() - started, 1)
            report({"step": run.step, "loss": round(float(total) / every, 5), "seconds": spent, **look()})
            total, started = torch.zeros(()), time.monotonic()


def provenance(run: Run, log: Path) -> dict[str, Any]:
    """What made the weights: parameters of both trainings, steps, versions, and the learning curve up to there."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    packages = ("torch", "diffusers", "transformers", "tokenizers")
    return {
        "steps": run.step,
        "denoiser": asdict(run.training),
        "autoencoder": asdict(autoencoder.Training()),
        "parameters": {
            name: sum(part.numel() for part in network.parameters()) for name, network in run.model.named_children()
        },
        "versions": {name: version(name) for name in packages},
        "curve": [line for line in lines if line["step"] <= run.step],
    }


def main(
    training: Training = Training(),
    steps: int = 30_000,
    every: int = 1000,
    threads: int = 1,
    n: int = 60,
    guidance: float = alignment.GUIDANCE,
    name: str = "denoiser",
    build: Path = BUILD,
    vae: Path | None = None,
    export: Path | None = None,
) -> None:
    """Train, or go on training, the embedded model.

    Args:
        training: parameters of the denoiser's training.
        steps: where to stop.
        every: steps between checkpoints, each with a look at the alignment.
        threads: of torch.
        n: prompts of each caption family to look at.
        guidance: of those.
        name: of the checkpoint.
        build: folder of checkpoints and logs.
        vae: folder of a finished autoencoder, such as weights/diffusion/vae, instead of training one.
        export: write the pipeline into this folder at the end, in half precision; without a given autoencoder.
    """
    torch.set_num_threads(threads)
    console = Console()
    if vae is None:
        coder = autoencoder.train(
            autoencoder.Training(), build / "autoencoder.pt", lambda step, loss: console.print(step, loss)
        )
    else:
        coder = AutoencoderTiny.from_pretrained(vae).float().eval()
    run = Run(training, source_of(coder, training, build), build / f"{name}.pt")

    def report(line: dict[str, Any]) -> None:
        with (build / f"{name}.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        console.print(line)

    train(run, steps, every, report, lambda: watch(run, coder, n, guidance))
    if export is not None:
        model.save_pipeline(run.average.pipeline(coder), export, whole=vae is None)
        write_text(export / "training.json", json.dumps(provenance(run, build / f"{name}.jsonl"), indent=1) + "\n")


if __name__ == "__main__":
    run(main, "python -m empirical.shapes.pretrain")
