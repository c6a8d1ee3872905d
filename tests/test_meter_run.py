"""Paired runs of real pipelines: what a pair shares, what splits and interrupts must not change."""

import json
import weakref

import pipelines as tiny
import pytest
import torch
from meter_cases import PAIRS, PROMPTS, gap, rewards_of

from empirical.meter import World
from empirical.meter.draws import Draws
from empirical.meter.generate import Run, Sampler
from empirical.meter.pipelines import latent_shape
from empirical.meter.run import Instrument


@pytest.mark.parametrize("name", list(tiny.PIPELINES))
def test_the_ode_run_is_the_pipelines_own_from_the_same_x_T(name):
    """DDIM, or Euler's method for flow matching, through the unchanged pipeline."""
    pipeline, draws = tiny.PIPELINES[name](), Draws(5)
    made = Sampler(pipeline, draws)(PAIRS, Run(0.0, 3, 3.0))
    x_T = draws.initial(PAIRS, latent_shape(pipeline, None))
    plain = pipeline([p for p, _ in PAIRS], num_inference_steps=3, guidance_scale=3.0, latents=x_T, output_type="pt")
    torch.testing.assert_close(made.images, plain.images, rtol=0, atol=2e-5)


def test_the_sde_run_at_eta_1_is_ddims_with_the_same_increments():
    pipeline, draws = tiny.stable_diffusion(), Draws(5)
    made = Sampler(pipeline, draws)(PAIRS, Run(1.0, 4, 3.0, draw=1))
    plain = pipeline(
        [p for p, _ in PAIRS], num_inference_steps=4, guidance_scale=3.0, eta=1.0, output_type="pt",
        latents=draws.initial(PAIRS, (4, 8, 8)), generator=draws.increments(PAIRS, 1),
    )  # fmt: skip
    torch.testing.assert_close(made.images, plain.images, rtol=0, atol=2e-5)
    assert made.last_std > 0  # Stable Diffusion's last step ends above sigma = 0
    assert made.sigmas[1] == pytest.approx(0.0292, abs=1e-4)


@pytest.mark.parametrize("name", list(tiny.PIPELINES))
def test_an_image_does_not_depend_on_the_batch_it_is_made_in(name):
    sampler = Sampler(tiny.PIPELINES[name](), Draws(1))
    together = sampler(PAIRS, Run(1.5, 3, 3.0)).images
    alone = torch.cat([sampler([pair], Run(1.5, 3, 3.0)).images for pair in PAIRS])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


def test_sde_runs_of_a_pair_share_increments_across_eta_and_differ_across_draws():
    sampler = Sampler(tiny.exact_gaussian(0.0, 1.0), Draws(1))
    latents = {
        (eta, draw): sampler(PAIRS, Run(eta, 20, 1.0, draw)).latents.flatten() for eta in (1.0, 1.2) for draw in (0, 1)
    }

    def correlation(one, other):
        return float(torch.corrcoef(torch.stack([latents[one], latents[other]]))[0, 1])

    assert correlation((1.0, 0), (1.2, 0)) > 0.9
    assert abs(correlation((1.0, 0), (1.0, 1))) < 0.3
    assert not torch.equal(latents[1.0, 0], latents[1.2, 0])


def test_the_pipeline_is_handed_back_as_it_was(tmp_path):
    pipeline = tiny.stable_diffusion()
    scheduler, bar = pipeline.scheduler, dict(pipeline._progress_bar_config)
    gap(pipeline, tmp_path)
    assert pipeline.scheduler is scheduler
    assert pipeline._progress_bar_config == bar
    assert not pipeline.unet._forward_hooks


def test_batches_of_any_size_give_the_same_rewards(tmp_path):
    runs = [gap(tiny.stable_diffusion(), tmp_path / str(size), batch_size=size) for size in (1, 4, 6)]
    for cell, found in runs[0].results.cells.items():
        for other in runs[1:]:
            assert other.results.cells[cell].ode == pytest.approx(found.ode, abs=1e-5)
            assert other.results.cells[cell].sde == pytest.approx(found.sde, abs=1e-5)


def test_a_prompts_numbers_do_not_depend_on_the_other_prompts(tmp_path):
    all_three = gap(tiny.stable_diffusion(), tmp_path / "a", batch_size=2)
    last = gap(tiny.stable_diffusion(), tmp_path / "b", prompts=PROMPTS[2:], batch_size=2)
    for cell, found in last.results.cells.items():
        assert found.sde[:, :, 0] == pytest.approx(all_three.results.cells[cell].sde[:, :, 2], abs=1e-6)


def test_every_reward_is_recorded_where_it_belongs(tmp_path):
    """Role, guidance, steps, eta, draw, prompt, sample and reward, each against a run of its own."""
    models = {"model": tiny.stable_diffusion(), "reference": tiny.stable_diffusion(seed=1)}
    rewards = {"red": tiny.redness, "blue": lambda images, prompts: images[:, 2].mean((1, 2))}
    settings = {
        "reference": models["reference"],
        "draws": 2,
        "prompts": PROMPTS[:2],
        "sampler": "cps",
        "etas": [0.3, 0.9],
    }
    found = gap(models["model"], tmp_path, rewards, **settings).results
    pairs = [(prompt, sample) for prompt in PROMPTS[:2] for sample in range(2)]
    for cell, cell_rewards in found.cells.items():
        sampler = Sampler(models[cell.role], Draws(0), "cps")
        for r, reward in enumerate(rewards.values()):
            ode = reward(sampler(pairs, Run(0.0, cell.steps, cell.guidance)).images, [])
            assert cell_rewards.ode[r].ravel() == pytest.approx(ode.numpy(), abs=1e-6)
            for e, eta in enumerate((0.3, 0.9)):
                for draw in range(2):
                    sde = reward(sampler(pairs, Run(eta, cell.steps, cell.guidance, draw)).images, [])
                    assert cell_rewards.sde[r, e, ..., draw].ravel() == pytest.approx(sde.numpy(), abs=1e-6)
    assert len({round(float(v), 7) for c in found.cells.values() for v in c.sde.ravel()}) > 100  # they all differ


def test_an_interrupted_measurement_goes_on_without_repeating_a_pair(tmp_path):
    calls = []

    def counted(images, prompts):
        calls.append(len(prompts))
        if interrupt and len(calls) == 9:
            raise KeyboardInterrupt
        return tiny.redness(images, prompts)

    interrupt = True
    with pytest.raises(KeyboardInterrupt):
        gap(tiny.stable_diffusion(), tmp_path / "cut", {"red": counted}, batch_size=2)
    interrupt, before = False, len(calls)
    resumed = gap(tiny.stable_diffusion(), tmp_path / "cut", {"red": counted}, batch_size=2)
    whole = gap(tiny.stable_diffusion(), tmp_path / "whole", {"red": tiny.redness}, batch_size=2)
    assert rewards_of(resumed) == rewards_of(whole)
    assert resumed.summary == whole.summary
    finished = 2 * 3  # batches of a cell, three runs each, that were recorded before the interrupt in the ninth run
    assert len(calls) - before == 3 * 4 * 3 - finished
    calls.clear()
    again = gap(tiny.stable_diffusion(), tmp_path / "cut", {"red": counted}, batch_size=2)
    assert (calls, again.summary) == ([], resumed.summary)


def test_several_processes_give_the_numbers_of_one(tmp_path, monkeypatch):
    """Both processes of a world of two, one after the other, on files of their own."""
    one = gap(tiny.stable_diffusion(), tmp_path / "one", batch_size=2)
    monkeypatch.setattr(World, "wait", lambda self: None)
    monkeypatch.setattr(World, "found", lambda: World(1, 2))
    (tmp_path / "two").mkdir()
    with pytest.raises(ValueError, match="the measurement is not finished"):  # the other process has its share left
        gap(tiny.stable_diffusion(), tmp_path / "two", batch_size=2)
    monkeypatch.setattr(World, "found", lambda: World(0, 2))
    (tmp_path / "two" / "configuration.json").write_bytes((tmp_path / "one" / "configuration.json").read_bytes())
    two = gap(tiny.stable_diffusion(), tmp_path / "two", batch_size=2)
    assert rewards_of(two) == rewards_of(one)
    assert all((tmp_path / "two" / f"pairs-{rank}.jsonl").stat().st_size for rank in (0, 1))


def test_the_reference_shares_x_T_and_equal_models_have_no_induced_gap(tmp_path):
    found = gap(tiny.stable_diffusion(), tmp_path / "same", reference=tiny.stable_diffusion())
    assert all(row["value"] == 0 for row in found.summary["induced"])
    other = gap(tiny.stable_diffusion(), tmp_path / "other", reference=tiny.stable_diffusion(seed=1))
    rows = {(r["role"], r["guidance"], r["steps"], r["eta"]): r["value"] for r in other.summary["gaps"]}
    for row in other.summary["induced"]:
        key = (row["guidance"], row["steps"], row["eta"])
        assert row["value"] == pytest.approx(rows["model", *key] - rows["reference", *key])


def test_the_reference_may_be_the_model_with_its_adapters_off(tmp_path):
    from peft import LoraConfig

    tuned = tiny.stable_diffusion()
    tuned.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    tuned.unet.eval()
    off = gap(tuned, tmp_path / "off", reference="adapters")
    apart = gap(tuned, tmp_path / "apart", reference=tiny.stable_diffusion())
    for cell, found in off.results.cells.items():
        assert apart.results.cells[cell].sde == pytest.approx(found.sde, abs=1e-6)
    assert off.provenance["models"]["reference"] == "the model with its adapters off"
    with pytest.raises(ValueError, match="the pipeline has no LoRA to switch off"):
        gap(tiny.stable_diffusion(), tmp_path / "none", reference="adapters")
    with pytest.raises(ValueError, match="reference must be a pipeline or 'adapters', got 'base'"):
        gap(tiny.stable_diffusion(), tmp_path / "none", reference="base")
    with pytest.raises(ValueError, match="model and reference must share x_T, but their latents have the shapes"):
        gap(tiny.stable_diffusion(), tmp_path / "none", reference=tiny.flux())


def test_a_pilot_fixes_the_samples_and_its_draws_are_not_reused(tmp_path):
    wide = gap(tiny.stable_diffusion(), tmp_path, half_width=0.05, steps=[2], guidance=1.0)
    assert wide.results.plan.samples == 1
    pilot = json.loads((tmp_path / "pilot" / "configuration.json").read_text())["plan"]
    assert pilot["samples"] == 4
    assert pilot["seed"] != wide.results.plan.seed
    with pytest.raises(ValueError, match="256 samples of each of 3 prompts do not reach a half-width of 1e-09"):
        gap(tiny.stable_diffusion(), tmp_path / "fine", half_width=1e-9, steps=[2], guidance=1.0)


def test_images_are_let_go_when_their_run_is_scored(tmp_path, monkeypatch):
    """Memory is that of one batch, whatever the number of prompts."""
    made, alive, generate = [], [], Instrument.generate

    def watched(self, role, pairs, run):
        alive.append(sum(image() is not None for image in made))
        result = generate(self, role, pairs, run)
        made.append(weakref.ref(result.images))
        return result

    monkeypatch.setattr(Instrument, "generate", watched)
    prompts = [f"cat {n}" for n in range(8)]
    gap(tiny.stable_diffusion(), tmp_path, prompts=prompts, batch_size=2, steps=[2], guidance=1.0)
    assert len(made) == 8 * 3
    assert max(alive) <= 1


def test_time_is_split_into_networks_rewards_and_overhead(tmp_path):
    time = gap(tiny.stable_diffusion(), tmp_path).provenance["time"]
    assert 0 < time["networks"] < time["seconds"]
    assert time["rewards"] > 0
    rest = time["seconds"] - time["networks"] - time["rewards"]
    assert time["overhead_ratio"] == pytest.approx(rest / time["networks"])
