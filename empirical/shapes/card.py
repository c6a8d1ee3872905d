"""The model card, written from the numbers of the evaluation and of the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empirical.shapes.scene import BACKGROUNDS, COLORS, PLACES, RADII, RELATIONS, SHAPES
from empirical.shapes.verify import OVERLAP, PURITY

FAMILY_NAMES = {"single": "one object", "pair": "two that differ, with a relation", "count": "two that are equal"}


def write(evaluation: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    about, made = (_FLOW, _made_flow) if _is_flow(training) else (_DIFFUSION, _made_diffusion)
    return f"""{about.format(guidance=f"{_recommended(evaluation):g}")}

![Samples: single objects, pairs, counts](samples.png)

Rows: one object, two that differ, two that are equal; the prompts are in `evaluation.json`. This file, the picture and
the numbers are written by `{_command(training)}`.

## What it was asked, and what it drew

Share of pictures in which the checker finds exactly what the caption says and nothing else (strict, with a 95 % Wilson
interval), and its graded score in [0, 1]; ODE, {evaluation["steps"]} steps, prompts of scenes that no training saw.
The scenes are new, their captions need not be: no word or combination was held out, so this measures obedience, not
generalisation to new combinations.

{_table(evaluation)}

"drawn" are pictures drawn from their captions' scenes (the checker's ceiling), "other captions" the same pictures with
captions of other scenes (its floor: some captions are true of several scenes), "autoencoder" drawn pictures that were
encoded and decoded. The checker asks for an overlap of {OVERLAP:g} with the wanted shape, which must also be the best
of the four, for {100 * PURITY:g} % of the wanted colour inside it, and for the named size, place, relation, background
and number.

## What it knows

Captions of the grammar in `caption.py`: {_words()}.
A scene has one object, small or large, or two small ones; the checker refuses captions of anything else.

## How it was made

{made(evaluation, training)}

## Limits

It is an instrument for measuring samplers and fine-tuning, not a picture maker: flat shapes, {len(COLORS)} colours,
{len(PLACES)} places. Products in bfloat16 differ between machines, so retraining gives another model of the same kind,
not the same bytes.
"""


_DIFFUSION = """# The embedded model

A text-to-image model small enough to commit and to fine-tune on a CPU, of the very classes of Stable Diffusion
(`CLIPTokenizer`, `CLIPTextModel`, `UNet2DConditionModel`, `DDIMScheduler`, `StableDiffusionPipeline`; the autoencoder
is `AutoencoderTiny`), trained from nothing on pictures of shapes, 32 x 32 pixels, whose captions can be checked from
the pixels.

```python
from empirical.shapes import load_pipeline

image = load_pipeline()("a red circle left of a blue square", guidance_scale={guidance}).images[0]
```"""

_FLOW = """# The embedded flow-matching model

The flow-matching companion of the embedded model, `embedded-flow` to every command: of Stable Diffusion 3's classes
(`SD3Transformer2DModel`, two `CLIPTextModelWithProjection`, no T5, `FlowMatchEulerDiscreteScheduler`,
`StableDiffusion3Pipeline`), trained from nothing on the same pictures, with the same autoencoder and tokenizer.

```python
from empirical.shapes import load_pipeline
from empirical.shapes.model import FOLDERS

pipe = load_pipeline(FOLDERS["embedded-flow"])
image = pipe("a red circle left of a blue square", guidance_scale={guidance}).images[0]
```

In the place of an absent T5, `StableDiffusion3Pipeline` feeds 256 zeros to every attention, four times the tokens that
say something. This model was trained without them: `load_pipeline` leaves them out, plain diffusers does with
`max_sequence_length=0`."""


def _is_flow(training: Mapping[str, Any]) -> bool:
    return training["denoiser"]["prediction"] == "flow"


def _command(training: Mapping[str, Any]) -> str:
    folder = "empirical/shapes/weights/flow"
    own = f" --model {folder} --out {folder}" if _is_flow(training) else ""
    return f"python -m empirical.shapes.evaluate{own}"


def _made_flow(evaluation: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    denoiser, sizes = training["denoiser"], evaluation["parameters"]
    versions = ", ".join(f"{name} {number}" for name, number in training["versions"].items())
    shape = f"{len(denoiser['blocks'])} layers of width {denoiser['width']}"
    return f"""`python -m empirical.shapes.pretrain --training.prediction flow --training.width {denoiser["width"]}
--training.blocks {denoiser["blocks"]} --name flow --steps {training["steps"]} --vae VAE --export FLOW` on one CPU
core, where VAE is `empirical/shapes/weights/diffusion/vae` and FLOW `empirical/shapes/weights/flow`.

| part | parameters | training |
|---|---|---|
| transformer, {shape}, patches of 2 x 2 | {sizes["transformer"]:,} | {_denoiser(training)} |
| each text encoder | {sizes["text_encoder"]:,} | with the transformer |

The hidden layers take orthogonalised steps (Muon), the other weights AdamW's; the velocity at times of SD3's
logit-normal, caption dropout {denoiser["drop"]:g}, moving average {denoiser["ema"]:g}, seed {denoiser["seed"]}. Weights
are stored in half precision, and what is stored was evaluated. Made with {versions}. The curve in `training.json` holds
the alignment {_curve(training)}."""


def _made_diffusion(evaluation: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    denoiser, sizes = training["denoiser"], evaluation["parameters"]
    versions = ", ".join(f"{name} {number}" for name, number in training["versions"].items())
    return f"""`python -m empirical.shapes.pretrain --export empirical/shapes/weights/diffusion`, on one CPU core.

| part | parameters | training |
|---|---|---|
| autoencoder, latents of 12 x 8 x 8, mean 0, variance 1 | {sizes["vae"]:,} | {_autoencoder(training["autoencoder"])} |
| UNet | {sizes["unet"]:,} | {_denoiser(training)} |
| text encoder | {sizes["text_encoder"]:,} | with the UNet |

The autoencoder was frozen before the others began. The UNet's hidden layers take orthogonalised steps (Muon), the other
weights AdamW's; {_target(denoiser)} with min-SNR weights, caption dropout {denoiser["drop"]:g}, moving average
{denoiser["ema"]:g}, seed {denoiser["seed"]}. Weights are stored in half precision, and what is stored was evaluated.
Made with {versions}.

What the command does not repeat exactly: the autoencoder saw scenes whose single objects stood up to 1.5 pixels farther
out than `scene.py` places them now. The vocabulary was first learned by a trainer with random ties; its ids were
recovered from the trained embeddings and the loss, and `tokenizer.py` now gives these very ids. Alignment that was
logged before that was measured with other ids and is discarded: the curve in `weights/diffusion/training.json` holds
what was measured afterwards, {_curve(training)}.

A second model, `embedded-early` to every command, is of the same kind with a UNet of width 64, stopped after 1,400
steps: it confuses shapes and relations, which leaves fine-tuning something to learn. It shares the autoencoder:
`python -m empirical.shapes.pretrain --training.width 64 --steps 1400 --vae VAE --export EARLY`, where VAE is
`empirical/shapes/weights/diffusion/vae` and EARLY `empirical/shapes/weights/early`. A third, `embedded-flow`, is of
Stable Diffusion 3's classes; its card is `weights/flow/README.md`."""


def _recommended(evaluation: Mapping[str, Any]) -> float:
    return float(list(evaluation["results"])[-1].rsplit(" ", 1)[-1])


def _curve(training: Mapping[str, Any]) -> str:
    steps = [f"{line['step']:,}" for line in training["curve"]]
    return f"at steps {', '.join(steps)}" if steps else "so far nothing"


def _autoencoder(training: Mapping[str, Any]) -> str:
    return f"{training['steps']:,} steps of {training['batch']} scenes, noise {training['noise']:g} on the latents"


def _denoiser(training: Mapping[str, Any]) -> str:
    return f"{training['steps']:,} steps of {training['denoiser']['batch']} scenes"


def _target(denoiser: Mapping[str, Any]) -> str:
    return {"v_prediction": "v-prediction", "epsilon": "epsilon-prediction"}[denoiser["prediction"]]


def _table(evaluation: Mapping[str, Any]) -> str:
    families = list(next(iter(evaluation["results"].values())))
    head = ["| pictures |", *(f" {FAMILY_NAMES[family]}: strict | graded |" for family in families)]
    lines = ["".join(head), "|---|" + "---|---|" * len(families)]
    for of, by_family in evaluation["results"].items():
        cells = [f"| {of} |", *(f" {_share(one)} | {one['graded']:.2f} |" for one in by_family.values())]
        lines.append("".join(cells))
    n = next(iter(by_family.values()))["n"]
    return "\n".join([*lines, "", f"{n} pictures a cell."])


def _share(one: Mapping[str, Any]) -> str:
    low, high = one["strict_interval"]
    return f"{100 * one['strict']:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


def _words() -> str:
    parts = {
        "shapes": SHAPES,
        "colours": COLORS,
        "sizes": RADII,
        "places": PLACES,
        "relations": RELATIONS,
        "backgrounds": BACKGROUNDS,
    }
    return "; ".join(f"{name} {', '.join(words)}" for name, words in parts.items())
