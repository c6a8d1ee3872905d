"""Checkpoints that are whole, runs that resume bit for bit, and a loss that is what it says."""

import dataclasses
import json
from dataclasses import asdict

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from empirical.shapes import autoencoder, checkpoint, data, flow, model, pretrain, tokenizer
from empirical.shapes.data import Batch
from empirical.shapes.diffusion import GAMMA, Diffusion

TOKENIZER = tokenizer.new()
TABLE = data.token_table(TOKENIZER)
TINY = pretrain.Training(batch=4, scenes=16, width=16)


def source(seed=0, drop=0.1):
    latents = torch.randn(16, 12, 8, 8, generator=torch.Generator().manual_seed(seed))
    return data.Source(latents.half(), TABLE, seed, drop)


def weights(run):
    return {**run.model.state_dict(), **{f"average.{name}": part for name, part in run.average.state_dict().items()}}


def test_three_steps_and_three_after_a_stop_are_six_bit_for_bit(tmp_path):
    whole = pretrain.Run(TINY, source(), tmp_path / "whole.pt")
    losses = [whole.advance() for _ in range(6)]
    first = pretrain.Run(TINY, source(), tmp_path / "parts.pt")
    for _ in range(3):
        first.advance()
    first.keep()
    second = pretrain.Run(TINY, source(), tmp_path / "parts.pt")
    assert second.step == 3
    assert [second.advance() for _ in range(3)] == losses[3:]
    left, right = weights(whole), weights(second)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert any(not torch.equal(left[name], right[name.removeprefix("average.")]) for name in left if "average" in name)


def test_an_autoencoder_that_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "KEEP", 2)
    run = autoencoder.Training(steps=4, batch=4, width=16)
    whole = autoencoder.train(run, tmp_path / "whole.pt").state_dict()

    def stop(step, loss):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        autoencoder.train(run, tmp_path / "parts.pt", stop)
    parts = autoencoder.train(run, tmp_path / "parts.pt").state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_standardised_latents_have_mean_0_and_variance_1():
    run = autoencoder.Training(batch=16, width=16)
    torch.manual_seed(0)
    made = autoencoder.standardise(autoencoder.new(16), run, batches=4)
    with torch.no_grad():
        latents = torch.cat([made.encode(autoencoder.pictures(0, -16 * (k + 1), 16)).latents for k in range(4)])
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(12), atol=1e-4, rtol=0)


def test_train_reports_and_keeps_at_every_look(tmp_path):
    run, lines = pretrain.Run(TINY, source(), tmp_path / "run.pt"), []
    pretrain.train(run, 4, 2, lines.append, lambda: {"single": 0.5})
    assert [line["step"] for line in lines] == [2, 4]
    assert all(line["single"] == 0.5 and line["loss"] > 0 for line in lines)
    assert pretrain.Run(TINY, source(), tmp_path / "run.pt").step == 4


def test_a_killed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    checkpoint.keep(path, {"seed": 0}, {"step": 1})

    def half(state, to):
        to.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.keep(path, {"seed": 0}, {"step": 2})
    assert checkpoint.resume(path, {"seed": 0})["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"x" * 99])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "run.pt"
    checkpoint.keep(path, {"seed": 0}, {"step": 1})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"run\.pt is damaged \(.*\); delete it to start again"):
        checkpoint.resume(path, {"seed": 0})


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    pretrain.Run(TINY, source(), tmp_path / "run.pt").keep()
    other = dataclasses.replace(TINY, rate=0.5)
    with pytest.raises(ValueError, match=r"is of another run \(rate 0\.01 against 0\.5\); delete it or name another"):
        pretrain.Run(other, source(), tmp_path / "run.pt")


def test_no_checkpoint_is_a_start():
    assert pretrain.Run(TINY, source(), pretrain.BUILD / "no such folder" / "run.pt").step == 0


def test_batches_depend_on_their_number_alone():
    one, other = source(), source()
    other.batch(7, 4)
    left, right = one.batch(3, 4), other.batch(3, 4)
    assert all(
        torch.equal(getattr(left, part), getattr(right, part)) for part in ("latents", "tokens", "noise", "share")
    )
    assert not torch.equal(left.noise, one.batch(4, 4).noise)


def test_captions_are_left_out_as_often_as_asked():
    empty = torch.tensor(TABLE[""])
    found = sum((source().batch(k, 100).tokens == empty).all(1).sum().item() for k in range(20))
    assert abs(found - 200) < 4 * (2000 * 0.1 * 0.9) ** 0.5
    assert (source(drop=1.0).batch(0, 8).tokens == empty).all()


def test_noise_levels_are_stratified():
    share = source().batch(0, 64).share.sort().values
    assert ((share * 64).floor() == torch.arange(64)).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_weighted_error_of_the_clean_latents(prediction, monkeypatch):
    torch.manual_seed(0)
    trained = Diffusion(TOKENIZER, prediction, 16, "DC").eval()
    batch = source().batch(0, 4)
    with torch.no_grad():
        loss = trained.loss(batch)
        times = (batch.share * 1000).long()
        scheduler = model.scheduler(prediction)
        noisy = scheduler.add_noise(batch.latents, batch.noise, times)
        output = trained.unet(noisy, times, trained.text_encoder(batch.tokens)[0]).sample
        errors = []
        for k, time in enumerate(times):  # the scheduler's own conversion to clean latents, one sample at a time
            scheduler.set_timesteps(1000)
            clean = scheduler.step(output[k : k + 1], time, noisy[k : k + 1]).pred_original_sample
            alpha_bar = scheduler.alphas_cumprod[time]
            weight = min(alpha_bar / (1 - alpha_bar), GAMMA)
            errors.append(weight * (clean - batch.latents[k : k + 1]).square().mean())
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-4, atol=0)


def test_the_moving_average_starts_at_the_weights_and_lags_behind(tmp_path):
    run = pretrain.Run(TINY, source(), tmp_path / "run.pt")
    start = [part.clone() for part in run.model.parameters()]
    run.advance()
    share = 2 / 11  # of the old weights after the first step
    for old, new, average in zip(start, run.model.parameters(), run.average.parameters(), strict=True):
        torch.testing.assert_close(average, share * old + (1 - share) * new.detach(), rtol=1e-5, atol=1e-6)


def test_warmup_and_decay_of_the_rates():
    assert TINY.factor(0) == pytest.approx(1 / 200)
    assert TINY.factor(199) == TINY.factor(10**6) == 1
    run = autoencoder.Training(steps=1000)
    assert run.rate_at(0) == pytest.approx(run.rate / 100)
    assert run.rate_at(500) == run.rate
    assert run.rate_at(800) == pytest.approx(run.rate / 2)
    assert run.rate_at(999) > 0


def test_latents_are_computed_once(tmp_path, monkeypatch):
    torch.manual_seed(0)
    vae = autoencoder.new(16).eval()
    first = pretrain.source_of(vae, TINY, tmp_path)
    monkeypatch.setattr(data, "latents_of", None)
    assert torch.equal(first.latents, pretrain.source_of(vae, TINY, tmp_path).latents)
    assert first.latents.shape == (16, 12, 8, 8)


def test_the_command_trains_resumes_and_exports(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "Training", lambda: TINY_AUTOENCODER)
    for steps in (2, 3):
        pretrain.main(TINY, steps=steps, every=2, n=1, build=tmp_path, export=tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "denoiser.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    assert set(lines[0]) >= {"loss", "single", "pair", "count", "single_graded"}
    loaded = model.load_pipeline(tmp_path / "out")
    run = pretrain.Run(TINY, source(), tmp_path / "denoiser.pt")
    for name, part in run.average.unet.state_dict().items():
        torch.testing.assert_close(loaded.unet.state_dict()[name], part.half().float())


TINY_AUTOENCODER = autoencoder.Training(steps=1, batch=4, width=16)


def test_batches_hold_tensors_of_one_size():
    batch = source().batch(0, 5)
    assert isinstance(batch, Batch)
    assert batch.latents.shape == batch.noise.shape == (5, 12, 8, 8)
    assert batch.tokens.shape == (5, tokenizer.LENGTH)
    assert asdict(TINY)["batch"] == 4


FLOW = pretrain.Training(batch=4, scenes=16, width=24, blocks="JJ", prediction="flow")


def test_a_flow_model_that_stopped_goes_on_bit_for_bit(tmp_path):
    whole = pretrain.Run(FLOW, source(), tmp_path / "whole.pt")
    losses = [whole.advance() for _ in range(4)]
    first = pretrain.Run(FLOW, source(), tmp_path / "parts.pt")
    first.advance(), first.advance(), first.keep()
    second = pretrain.Run(FLOW, source(), tmp_path / "parts.pt")
    assert [second.advance() for _ in range(2)] == losses[2:]
    left, right = weights(whole), weights(second)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_loss_of_a_flow_model_is_that_of_the_velocity_between_noise_and_data(monkeypatch):
    network = flow.Flow(TOKENIZER, 24, 1)
    batch = source().batch(0, 8)
    seen = {}

    def zero(noisy, context, pooled, times, return_dict):
        seen.update(noisy=noisy, times=times / 1000)
        return (torch.zeros_like(noisy),)

    monkeypatch.setattr(network.transformer, "forward", zero)
    loss = network.loss(batch)
    torch.testing.assert_close(loss, (batch.noise - batch.latents).square().mean())
    t = seen["times"][:, None, None, None]
    torch.testing.assert_close(seen["noisy"], (1 - t) * batch.latents + t * batch.noise)
    normal = torch.special.ndtri(batch.share.double())
    torch.testing.assert_close(torch.logit(seen["times"].double()), normal, rtol=1e-4, atol=1e-4)


def test_what_a_flow_model_trains_on_is_what_its_pipeline_makes_of_a_caption():
    network = flow.Flow(TOKENIZER, 24, 1)
    pipeline = network.pipeline(autoencoder.new(16))
    texts = ["a red circle", "two small blue squares"]
    tokens = torch.tensor(TOKENIZER(texts, padding="max_length").input_ids)
    states, _, pooled, _ = pipeline.encode_prompt(texts, None, None)
    torch.testing.assert_close(network.context(tokens), (states, pooled))


def test_without_t5_is_stable_diffusion_3_without_its_zeros():
    network = flow.Flow(TOKENIZER, 24, 1)
    short = network.pipeline(autoencoder.new(16))
    plain = StableDiffusion3Pipeline(**short.components)
    plain.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
    found, same, padded = (
        pipeline("a red circle", generator=torch.Generator().manual_seed(0), **call, **more).images
        for pipeline, more in ((short, {}), (plain, {"max_sequence_length": 0}), (plain, {}))
    )
    assert torch.equal(found, same)
    assert not torch.allclose(found, padded, atol=1e-5)


def test_a_saved_flow_model_comes_back_in_half_precision_with_the_shared_parts(tmp_path):
    made = flow.Flow(TOKENIZER, 24, 1).pipeline(model.load_pipeline().vae)
    model.save_pipeline(made, tmp_path, whole=False)
    assert not (tmp_path / "vae").exists()
    assert not (tmp_path / "tokenizer_2").exists()
    again = model.load_pipeline(tmp_path)
    assert isinstance(again, model.WithoutT5)
    halves = made.transformer.half().state_dict()
    assert all(torch.equal(part, halves[name].float()) for name, part in again.transformer.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": "DC"}, "a flow model has a J for each layer as its blocks, such as JJJJ, got 'DC'"),
        ({"blocks": "J", "width": 80}, "the width of a flow model is a multiple of 24, got 80"),
    ],
)
def test_a_flow_model_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        pretrain.untrained(dataclasses.replace(FLOW, **settings))
