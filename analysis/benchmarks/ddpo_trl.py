"""Epochs of TRL's DDPOTrainer on a model, timed; run by ``analysis.benchmarks.ddpo`` in an environment of its own.

``python ddpo_trl.py JSON``: with the keys model, prompts, epochs, batch, micro_batch, steps, guidance, rank. Prints a
line of JSON: seconds of every epoch and the peak memory of the process in MB.
"""

import io
import json
import resource
import sys
import tempfile
import time
import warnings

import numpy as np
import torch
from accelerate import PartialState
from peft import LoraConfig
from PIL import Image
from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline


def kilobytes(image: torch.Tensor) -> float:
    """Size of the JPEG of quality 95, as the reward of the other side has it."""
    pixels = (image.detach().clamp(0, 1).movedim(0, -1) * 255).round().to(torch.uint8).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95)
    return buffer.tell() / 1000


def main(wanted: dict) -> dict:
    """Train, and tell the seconds of every epoch."""
    PartialState(cpu=True)  # their pipeline logs
    pipeline = DefaultDDPOStableDiffusionPipeline(wanted["model"], use_lora=True)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    pipeline.unet.add_adapter(
        LoraConfig(r=wanted["rank"], lora_alpha=wanted["rank"], init_lora_weights="gaussian", target_modules=targets)
    )
    pipeline.get_trainable_layers = lambda: pipeline.unet
    draw = np.random.default_rng(0)
    batches = wanted["batch"] // wanted["micro_batch"]
    config = DDPOConfig(
        num_epochs=wanted["epochs"], save_freq=10**6, mixed_precision="no", sample_num_steps=wanted["steps"],
        sample_eta=1.0, sample_guidance_scale=wanted["guidance"], sample_batch_size=wanted["micro_batch"],
        sample_num_batches_per_epoch=batches, train_batch_size=wanted["micro_batch"],
        train_gradient_accumulation_steps=batches, train_learning_rate=3e-4, train_timestep_fraction=0.9,
        per_prompt_stat_tracking=True, train_cfg=True, project_kwargs={"project_dir": tempfile.mkdtemp()},
        accelerator_kwargs={"cpu": True},
    )  # fmt: skip
    trainer = DDPOTrainer(
        config,
        lambda images, prompts, metadata: (-torch.tensor([kilobytes(image) for image in images]), {}),
        lambda: (wanted["prompts"][int(draw.integers(len(wanted["prompts"])))], {}),
        pipeline,
    )
    seconds, step = [], 0
    for epoch in range(wanted["epochs"]):
        began = time.perf_counter()
        step = trainer.step(epoch, step)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(json.loads(sys.argv[1]))))
