"""The memory of a training step is counted as tensors live and die, on the meta device as on a real one."""

import copy
from dataclasses import replace

import ddpo_cases as cases
import pipelines as tiny
import pytest
import torch
from torch import nn

from analysis import memory_plan
from empirical.training import memory, tune
from empirical.training.memory import Budget, Peak, Sizes, budget, replica

SIZES = Sizes(torch.float32, 2, False, False, 8, 4)


def inputs(n):
    return {
        "sample": torch.zeros(n, 4, 8, 8),
        "timestep": torch.zeros(n),
        "encoder_hidden_states": torch.zeros(n, 5, 16),
    }


def found(pipeline, n=2, **changes):
    others = [pipeline.vae, pipeline.text_encoder]
    return budget(pipeline.unet, others, inputs(n), "sample", pipeline.vae, (n, 4, 8, 8), replace(SIZES, **changes))


def test_a_tensor_counts_from_its_making_to_its_end_by_hand():
    with Peak() as peak:
        a = torch.empty(100, device="meta")
        b = a + 1
        view = b[:10]
        assert (peak.alive, peak.most) == (800, 800)
        del a
        assert peak.alive == 400
        c = torch.empty(300, device="meta")
        del b
        assert peak.alive == 1600  # the view keeps all of b
        del view, c
    assert (peak.alive, peak.most) == (0, 1600)


def test_a_layer_keeps_its_input_for_its_backward_pass_by_hand():
    layer, x = nn.Linear(8, 4, bias=False, device="meta"), torch.empty(2, 8, device="meta")
    with Peak() as peak:
        y = layer(x + 1)
        assert peak.alive == 4 * (16 + 8)  # x + 1, kept for the weight's gradient, and y
        del y
    assert peak.alive == 0


def test_the_meta_device_shows_what_a_real_device_holds():
    pipeline = tiny.stable_diffusion()
    tune.add_lora(pipeline, 2, seed=0)
    network, real, given = copy.deepcopy(pipeline.unet), Peak(), inputs(2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", memory._fused)
        with real:
            network(**given)[0].float().sum().backward()
    plain = tiny.stable_diffusion()
    assert found(plain).update == pytest.approx(real.most, rel=0.01)


def test_memory_grows_with_the_batch_and_blocks_that_are_computed_again_need_less():
    pipeline = tiny.stable_diffusion()
    one, two, again = found(pipeline, 8), found(pipeline, 16), found(pipeline, 16, checkpointing=True)
    assert two.update == pytest.approx(2 * one.update, rel=0.05)
    assert again.update < 0.7 * two.update
    assert (two.weights, two.training) == (again.weights, again.training)


def test_weights_moments_and_latents_by_hand():
    pipeline = tiny.stable_diffusion()
    weights = sum(
        4 * p.numel() for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in part.parameters()
    )
    tuned = replica(pipeline.unet, torch.float32, 2, False)
    trained = 4 * sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    low, full = found(pipeline, ema=True), found(pipeline, rank=None)
    assert trained > 0
    assert low.weights == weights + trained
    assert low.training == 3 * trained
    unet = sum(4 * p.numel() for p in pipeline.unet.parameters())
    assert full.weights == weights + unet  # with the reference
    assert full.training == 2 * unet
    assert low.latents == 5 * 8 * 4 * 256


def test_half_precision_halves_frozen_weights_and_keeps_adapters_wide():
    made = replica(tiny.stable_diffusion().unet, torch.bfloat16, 2, False)
    kinds = (
        {p.dtype for p in made.parameters() if p.requires_grad},
        {p.dtype for p in made.parameters() if not p.requires_grad},
    )
    assert kinds == ({torch.float32}, {torch.bfloat16})
    assert torch.get_default_dtype() == torch.float32


def test_the_total_is_what_stays_and_the_larger_of_what_passes():
    assert Budget(5, 4, 3, 2, 1).total == 14
    assert Budget(5, 4, 3, 1, 2).total == 14


def test_the_plan_of_stable_diffusion_has_its_published_size():
    unet, coder, text = memory_plan.networks()
    assert [round(sum(p.numel() for p in part.parameters()) / 1e6) for part in (unet, coder, text)] == [860, 84, 123]
    some = {n: Budget(int(n * 4e9), 0, 0, 0, 0) for n in (1, 4, 8)}
    assert memory_plan.largest(some, 24) == "4"  # 32 GB of 8 do not fit
    assert memory_plan.largest({8: some[8]}, 24) == "none"


def test_checkpointing_gives_the_gradient_of_the_plain_pass():
    policy, again = cases.policy(), cases.policy()
    again.pipeline.unet.enable_gradient_checkpointing()
    x, gradients = torch.ones(1, 4, 8, 8), []
    for one in (policy, again):
        one.output(x, 1, one.condition(["a bird"])).square().sum().backward()
        gradients.append([p.grad for p in tune.trainable(one.network).values()])
    assert any(bool(g.any()) for g in gradients[0])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)
