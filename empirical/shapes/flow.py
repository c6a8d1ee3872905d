"""The flow-matching model as something to train: of Stable Diffusion 3's own classes, text encoders included."""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from transformers import CLIPTokenizer

from empirical.shapes import model
from empirical.shapes.data import Batch


class Flow(nn.Module):
    """Two CLIP text encoders and Stable Diffusion 3's transformer, trained together; there is no T5.

    Args:
        tokenizer: of the captions.
        width: of the transformer.
        layers: of the transformer.
    """

    def __init__(self, tokenizer: CLIPTokenizer, width: int, layers: int) -> None:
        """Networks with random weights."""
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder, self.text_encoder_2 = (model.projected_text_encoder(tokenizer) for _ in range(2))
        self.transformer = model.transformer(width, layers)

    @property
    def denoiser(self) -> nn.Module:
        """What is called at every step of a sampler."""
        return self.transformer

    def context(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the pipeline makes of captions: both encoders' penultimate states and projections, side by side.

        Shapes (batch, LENGTH, 2 JOINED) and (batch, 2 JOINED).
        """
        found = [encoder(tokens, output_hidden_states=True) for encoder in (self.text_encoder, self.text_encoder_2)]
        states = torch.cat([one.hidden_states[-2] for one in found], dim=-1)
        return states, torch.cat([one.text_embeds for one in found], dim=-1)

    def loss(self, batch: Batch) -> Tensor:
        r"""Squared error of the velocity at times drawn from SD3's logit-normal.

        .. math:: x_t = (1 - t) x_0 + t \epsilon, \qquad v = \epsilon - x_0, \qquad t = 1 / (1 + e^{-z}), z \sim N(0, 1)

        Reference: Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (Esser et al., 2024),
        https://arxiv.org/abs/2403.03206, section 3.1.
        """
        t = torch.sigmoid(torch.special.ndtri(batch.share.clamp(1e-4, 1 - 1e-4)))
        beside = t[:, None, None, None]
        noisy = (1 - beside) * batch.latents + beside * batch.noise
        context, pooled = self.context(batch.tokens)
        output = self.transformer(noisy, context, pooled, 1000 * t, return_dict=False)[0].float()
        return (output - (batch.noise - batch.latents)).square().mean()

    def pipeline(self, vae: AutoencoderTiny) -> model.WithoutT5:
        """Stable Diffusion 3's pipeline around these very networks, in eval mode."""
        made = model.WithoutT5(
            vae=vae.eval(),
            text_encoder=self.text_encoder.eval(),
            text_encoder_2=self.text_encoder_2.eval(),
            text_encoder_3=None,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer,
            tokenizer_3=None,
            transformer=self.transformer.eval(),
            scheduler=model.flow_scheduler(),
        )
        made.set_progress_bar_config(disable=True)
        return made
