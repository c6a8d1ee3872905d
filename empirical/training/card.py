"""The model card that is written beside trained weights, from the last evaluation alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def card(
    settings: Mapping[str, Any],
    last: Mapping[str, Any],
    pipeline: str,
    algorithm: str,
    denoiser: tuple[str, str] | None,
) -> str:
    """Markdown: what was trained, how, and the gap between deterministic and stochastic sampling afterwards.

    Args:
        settings: of the run.
        last: its last evaluation.
        pipeline: the class's name.
        algorithm: its name.
        denoiser: the pipeline's attribute and its class's name where it was trained as a whole, None for a LoRA.
    """
    what, use = "Low-rank adapters", "pipe.load_lora_weights(FOLDER)"
    if denoiser is not None:
        part, kind = denoiser
        what, use = "A denoiser", f'pipe.{part} = {kind}.from_pretrained(FOLDER, subfolder="{part}")'
    table = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    text = f"""# Fine-tuned for {settings["reward"]}

{what} fine-tuned by {algorithm} for a {pipeline}.

```python
{use}
```

## Gap between ODE and SDE sampling, on held-out prompts

ODE minus SDE, paired by prompt and initial noise, with 95 % intervals over prompts; "added" is the gap less that of
the model before training.

{gap_table(last)}

{diversity_table(last)}

KL of the sampler's paths to the model before training: {last["path_kl"]:.3g}.

## Settings

| setting | value |
|---|---|
{table}
"""
    return re.sub(r"(?<![\w.])/(?:[^\s,|/]+/)+", "", text)  # names of files, not where they lie


def gap_table(last: Mapping[str, Any]) -> str:
    """Every reward, guidance and eta."""
    added = {_key(row): row for row in last["induced"]}
    head = (
        "| reward | guidance | steps | eta | ODE | SDE | gap | added by training |\n|---|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {row['reward']} | {row['guidance']:g} | {row['steps']} | {row['eta']:g} | {row['ode']:.4g} | "
        f"{row['sde']:.4g} | {_mean(row)} | {_mean(added[_key(row)]) if _key(row) in added else ''} |"
        for row in last["gaps"]
        if row["role"] == "model"
    ]
    return "\n".join([head, *rows])


def diversity_table(last: Mapping[str, Any]) -> str:
    """Spread of the images of a prompt, now and before."""
    rows = [
        f"| {row['role']} | {row['guidance']:g} | {row['eta']:g} | {row['value']:.4g} |" for row in last["diversity"]
    ]
    return "\n".join(["| model | guidance | eta (0: ODE) | diversity |\n|---|---|---|---|", *rows]) if rows else ""


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["reward"], row["guidance"], row["steps"], row["eta"]


def _mean(row: Mapping[str, Any]) -> str:
    if row["interval"] is None:
        return f"{row['value']:+.4g}"
    low, high = row["interval"]
    return f"{row['value']:+.4g} ({low:+.4g} to {high:+.4g})"
