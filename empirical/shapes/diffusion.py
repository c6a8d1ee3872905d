"""The diffusion model as something to train: its networks, its loss, and the pipeline that samples from it."""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from empirical.shapes import model
from empirical.shapes.data import Batch

GAMMA = 5.0  # of "Efficient Diffusion Training via Min-SNR Weighting Strategy" (Hang et al., 2023), arXiv 2303.09556


class Diffusion(nn.Module):
    """A UNet and a text encoder, trained together.

    Args:
        tokenizer: of the captions.
        prediction: ``epsilon`` or ``v_prediction``.
        width: of the UNet.
        blocks: of the UNet, see ``model.denoiser``.
    """

    def __init__(self, tokenizer: CLIPTokenizer, prediction: str, width: int, blocks: str) -> None:
        """Networks with random weights."""
        super().__init__()
        self.tokenizer, self.prediction = tokenizer, prediction
        self.text_encoder = model.text_encoder(tokenizer)
        self.unet = model.denoiser(width, blocks)
        self.register_buffer("alpha_bar", model.scheduler(prediction).alphas_cumprod, persistent=False)

    @property
    def denoiser(self) -> nn.Module:
        """What is called at every step of a sampler."""
        return self.unet

    def loss(self, batch: Batch) -> Tensor:
        r"""Squared error of x_0, weighted by ``min(snr, gamma)``, written as a weight on the network's own target.

        .. math:: x_t = \sqrt{\bar\alpha} x_0 + \sqrt{1 - \bar\alpha} \epsilon, \qquad
                  v = \sqrt{\bar\alpha} \epsilon - \sqrt{1 - \bar\alpha} x_0
        """
        times = (batch.share * len(self.alpha_bar)).long()
        alpha_bar = self.alpha_bar[times][:, None, None, None]
        signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noisy = (signal * batch.latents + spread * batch.noise).contiguous(memory_format=torch.channels_last)
        context = self.text_encoder(batch.tokens)[0]
        output = self.unet(noisy, times, context).sample.float()
        snr = alpha_bar / (1 - alpha_bar)
        if self.prediction == "epsilon":
            target, weight = batch.noise, snr.clamp(max=GAMMA) / snr
        else:
            target, weight = signal * batch.noise - spread * batch.latents, snr.clamp(max=GAMMA) / (snr + 1)
        return (weight * (output - target).square()).mean()

    def pipeline(self, vae: AutoencoderTiny) -> StableDiffusionPipeline:
        """Stable Diffusion's pipeline around these very networks."""
        return model.pipeline(vae, self.text_encoder, self.tokenizer, self.unet, self.prediction)
