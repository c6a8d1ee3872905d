"""Bad input to the meter: named with step, prompt and sample, or refused with the remedy; what is finished stays."""

import math

import pipelines as tiny
import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler
from meter_cases import gap, rewards_of

from empirical.meter import LatentReward, NetworkError
from empirical.rewards import RewardError


class Broken(torch.nn.Module):
    """A denoiser that gives NaN on the second sample of a batch from its third call on."""

    def __init__(self, inner):
        """Passes for ``inner``."""
        super().__init__()
        self.device = torch.device("cpu")
        self.inner, self.config, self.dtype, self.calls = inner, inner.config, inner.dtype, 0

    def forward(self, *args, **kwargs):
        """What ``inner`` gives, at first."""
        self.calls += 1
        (output,) = self.inner(*args, **kwargs)
        if self.calls >= 3:
            output[1] = math.nan
        return (output,)


def test_nan_of_the_network_is_named_with_step_and_sample_and_what_is_finished_stays(tmp_path):
    pipeline = tiny.stable_diffusion()
    pipeline.unet = Broken(pipeline.unet).eval()
    expected = (
        r"the network at step 1 of 2 \(timestep 501\) gave NaN or an infinity on sample 1 of prompt 'a red cat' "
        r"\(eta=0.5, 2 steps, guidance 1\)"
    )
    with pytest.raises(NetworkError, match=expected):
        gap(pipeline, tmp_path)
    assert list(tmp_path.glob("pairs-*")) == []
    pipeline = tiny.stable_diffusion()
    pipeline.vae.decoder.conv_out.bias[:] = math.nan
    with pytest.raises(NetworkError, match="the decoder gave NaN or an infinity on sample 0 of prompt 'a red cat'"):
        gap(pipeline, tmp_path / "vae")


def test_a_failing_reward_is_named_with_prompt_and_sample(tmp_path):
    def nan(images, prompts):
        return torch.tensor([math.nan if prompt == "two dogs" else 0.0 for prompt in prompts])

    with pytest.raises(RewardError, match=r"reward nan gave nan on image 2, prompt 'two dogs': sample 0, eta=0, 2 st"):
        gap(tiny.stable_diffusion(), tmp_path, nan)
    bad = LatentReward("bad", lambda latents: latents.sum() * latents[:, 0, 0, 0] * math.inf)
    with pytest.raises(RewardError, match=r"reward bad gave .* on image 0, prompt 'a red cat': sample 0"):
        gap(tiny.stable_diffusion(), tmp_path / "latent", bad)
    with pytest.raises(RewardError, match=r"the reward flat must give shape \(6,\), got \(\)"):
        gap(tiny.stable_diffusion(), tmp_path / "flat", LatentReward("flat", lambda latents: latents.sum()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [""]}, "prompt 1 is empty"),
        ({"etas": [-0.5]}, "etas must be 0 or more, got -0.5"),
        ({"rewards": []}, "rewards is empty; give at least one"),
        ({"rewards": [tiny.redness, tiny.redness]}, "two rewards have one name"),
        ({"rewards": "loveliness"}, "unknown reward 'loveliness'"),
        ({"sampler": "heun"}, "sampler 'heun' cannot be a scheduler"),
        ({"sampler": "ddim"}, "DDIM admits eta up to 1 on this grid, got eta=1.5; use sampler='gddim'"),
        ({"level": 95}, "level must lie between 0 and 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"half_width": -1.0}, "half_width must be positive"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, changes, message):
    rewards = changes.pop("rewards", tiny.redness)
    with pytest.raises(ValueError, match=message):
        gap(tiny.stable_diffusion(), tmp_path, rewards, **changes)


def test_a_scheduler_without_a_stochastic_form_is_refused(tmp_path):
    pipeline = tiny.stable_diffusion()
    pipeline.scheduler = EDMEulerScheduler()
    with pytest.raises(ValueError, match="cannot convert EDMEulerScheduler to a stochastic scheduler"):
        gap(pipeline, tmp_path)


def test_another_measurement_in_the_folder_is_refused_and_kept(tmp_path):
    first = gap(tiny.stable_diffusion(), tmp_path)
    with pytest.raises(ValueError, match=r"holds another measurement: plan.seed is 0 there and 1 here"):
        gap(tiny.stable_diffusion(), tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"holds another measurement: models.model.weights_sha256"):
        gap(tiny.stable_diffusion(seed=2), tmp_path)
    pipeline = tiny.stable_diffusion()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, beta_end=0.02)
    with pytest.raises(ValueError, match=r"holds another measurement: models.model.scheduler_config.beta_end"):
        gap(pipeline, tmp_path)
    assert rewards_of(gap(tiny.stable_diffusion(), tmp_path)) == rewards_of(first)
