"""The trainer from its command line to weights that plain diffusers loads; what it masks, stops at and refuses."""

import json
import math

import ddpo_cases as cases
import pipelines as tiny
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis.plot_training import changes
from empirical import train_ddpo as command
from empirical.rewards import jpeg
from empirical.training import ddpo, tune
from empirical.training.plan import planned
from empirical.training.run import assemble
from empirical.training.settings import PUBLISHED, check

SMALL = ["--steps", "4", "--guidance", "3", "--epochs", "1", "--batch", "8", "--group", "2", "--micro-batch", "4",
         "--rank", "2", "--tracker", "none", "--updates", "1", "--dtype", "float32"]  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return cases.files(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "out"
    return cases.run(given, out, epochs=3, evaluate_every=2, ema=0.5, kl_weight=0.01, eta=(1.2,))


def lines(out, kind):
    return [line for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if line["kind"] == kind]


def images(pipeline):
    generator = torch.Generator().manual_seed(0)
    return pipeline(["a house"], num_inference_steps=3, guidance_scale=3.0, generator=generator,
                    output_type="pt").images  # fmt: skip


def test_the_trained_lora_loads_in_plain_diffusers_and_draws_the_same_pictures(given, finished):
    plain = StableDiffusionPipeline.from_pretrained(given["model"], safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    before = images(plain)
    plain.load_lora_weights(finished.config.out / "weights")
    with finished.judged() as weights:
        expected = images(finished.pipeline)
    assert weights == "ema"
    torch.testing.assert_close(images(plain), expected, rtol=0, atol=1e-5)
    assert float((before - expected).abs().max()) > 1e-3


def test_all_weights_load_in_plain_diffusers(given, tmp_path):
    run = cases.run(given, tmp_path, epochs=1, rank=None, learning_rate=1e-4, kl_weight=0.1)
    plain = StableDiffusionPipeline.from_pretrained(given["model"], safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    as_trained = torch.channels_last  # another order of the weights in memory, another rounding
    plain.unet.to(memory_format=as_trained), plain.vae.to(memory_format=as_trained)
    before = images(plain)
    plain.unet = type(plain.unet).from_pretrained(tmp_path / "weights" / "unet").to(memory_format=as_trained)
    assert torch.equal(images(plain), images(run.pipeline))
    assert not torch.equal(images(plain), before)


def test_the_card_tells_the_gap_and_names_no_place_of_this_machine(given, finished):
    text = (finished.config.out / "weights" / "README.md").read_text()
    assert "| jpeg_compressibility | 3 | 4 | 1.2 |" in text
    assert "Low-rank adapters fine-tuned by DDPO for a StableDiffusionPipeline" in text
    assert "pipe.load_lora_weights" in text
    assert str(given["model"].parent) not in text
    assert "| prompts | train.txt |" in text


def test_an_epochs_line_says_what_happened_in_both_units(finished):
    first, *_, last = lines(finished.config.out, "epoch")
    assert first["guard_log_ratio_over_tolerance"] == 0
    assert first["kl_step"] == 0
    assert last["kl_step"] > 0
    assert 0 < last["kl_step_at_eta_1"] < last["kl_step"]  # eta = 1.2 pays more for the same change
    assert last["clip_summed"] == pytest.approx(256 * last["clip_per_entry"])
    assert last["trained_steps"] == {"0": 8, "1": 8, "2": 8}
    assert set(last["guard_tolerance_by_step"]) == {"0", "1", "2"}


def test_evaluations_are_pinned_and_compare_with_the_model_before_training(finished):
    found = lines(finished.config.out, "evaluation")
    assert [line["epoch"] for line in found] == [0, 2, 3]
    before, after = found[0], found[-1]
    assert before["path_kl"] == 0 < after["path_kl"]
    assert before["induced"] == []
    gaps = {(r["role"], r["guidance"], r["eta"]): r["value"] for r in after["gaps"]}
    assert set(gaps) == {(role, g, eta) for role in ("model", "reference") for g in (1.0, 3.0) for eta in (1.0, 1.2)}
    first = {(r["guidance"], r["eta"]): r["value"] for r in before["gaps"]}
    for row in after["induced"]:
        g, eta = row["guidance"], row["eta"]
        assert gaps["reference", g, eta] == pytest.approx(first[g, eta])
        assert row["value"] == pytest.approx(gaps["model", g, eta] - first[g, eta])
    assert {r["eta"] for r in after["rewards"]} == {0.0, 1.0, 1.2}
    assert {r["role"] for r in after["diversity"]} == {"model", "reference"}
    pinned = after["pinned"]
    assert pinned["plan"]["steps"] == [4]
    assert pinned["plan"]["prompts"] == cases.HELD_OUT
    assert pinned["models"]["weights"] == "ema"
    assert pinned["last_step"]["convention"] == "noise is left in"


def test_the_changes_of_a_run_are_those_of_its_log_and_its_spreads_those_before(finished):
    first, *_, last = lines(finished.config.out, "evaluation")
    logged = [
        {(r["reward"], r["eta"]): r["value"] for r in line["rewards"] if r["role"] == "model" and r["guidance"] == 3.0}
        for line in (first, last)
    ]
    found = {(one["reward"], one["sampler"]): one for one in changes(finished.config.out)}
    assert set(found) == {("jpeg_compressibility", name) for name in ("ODE", "SDE, eta 1", "SDE, eta 1.2")}
    for (reward, eta), before in logged[0].items():
        one = found[reward, f"SDE, eta {eta:g}" if eta else "ODE"]
        assert one["change"] == pytest.approx(logged[1][reward, eta] - before)
        assert one["before"] == pytest.approx(before)
        assert one["std"] > 0
        assert one["interval"][0] <= one["change"] <= one["interval"][1]


def test_evaluation_leaves_the_weights_and_the_run_as_they_were(given, finished, tmp_path):
    other = cases.run(given, tmp_path, epochs=3, evaluate_every=3, ema=0.5, kl_weight=0.01, eta=(1.2,))
    for mine, theirs in zip(finished.parameters, other.parameters, strict=True):
        assert torch.equal(mine, theirs)


def test_failed_rewards_are_masked_and_counted(given, tmp_path, monkeypatch):
    def failing(images, prompts):
        return torch.where(torch.tensor([p == "two dogs" for p in prompts]), math.nan, tiny.redness(images, prompts))

    monkeypatch.setattr(jpeg, "jpeg_compressibility", failing)
    cases.run(given, tmp_path, epochs=1, advantage="group", evaluate_every=1)
    (line,) = lines(tmp_path, "epoch")
    assert line["rewards_failed"] == 2
    assert line["samples_kept"] == 6
    assert line["groups_flat"] == 1  # nothing of it is left
    assert "gave nan on image" in line["first_failure"]


def test_groups_without_spread_are_masked_counted_and_skipped_if_all_are(given, tmp_path, monkeypatch):
    monkeypatch.setattr(jpeg, "jpeg_compressibility", lambda images, prompts: torch.ones(len(prompts)))
    run = cases.run(given, tmp_path, epochs=1, advantage="group")
    (line,) = lines(tmp_path, "epoch")
    assert (line["groups_flat"], line["samples_kept"], line["updates_skipped"]) == (4, 0, 1)
    assert run.state.updates == 0


def test_a_flat_group_beside_others_has_no_gradient(given, tmp_path, monkeypatch):
    def flat(images, prompts):
        return torch.where(torch.tensor([p == "a fish" for p in prompts]), 1.0, tiny.redness(images, prompts))

    monkeypatch.setattr(jpeg, "jpeg_compressibility", flat)
    cases.run(given, tmp_path, epochs=1, advantage="group")
    (line,) = lines(tmp_path, "epoch")
    assert (line["groups_flat"], line["samples_kept"], line["updates_skipped"]) == (1, 6, 0)


def test_a_profile_trains_its_stochastic_steps_alone(given, tmp_path):
    cases.run(given, tmp_path, epochs=1, eta=(0.0, 1.5, 0.0, 1.0))
    assert lines(tmp_path, "epoch")[0]["trained_steps"] == {"1": 8}


def test_drawn_steps_are_trained_in_turn(given, tmp_path):
    cases.run(given, tmp_path, epochs=6, train_steps=1)
    trained = [set(line["trained_steps"]) for line in lines(tmp_path, "epoch")]
    assert all(len(one) == 1 for one in trained)
    assert len(set.union(*trained)) > 1


def test_a_ratio_that_is_not_1_stops_before_anything_is_changed(given, tmp_path, monkeypatch):
    step = ddpo.roll

    def shifted(*args):
        path = step(*args)
        path.latents[2] += 0.05
        return path

    monkeypatch.setattr(ddpo, "roll", shifted)
    with pytest.raises(ValueError, match=r"every ratio must be 1, but at step [12] \(timestep \d+\)"):
        cases.run(given, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_nan_stops_with_the_last_good_checkpoint_kept(given, tmp_path, monkeypatch):
    update = ddpo.update

    def poisoned(run, epoch, paths, advantage):
        if epoch == 2:
            next(iter(run.parameters)).data.fill_(math.nan)
        return update(run, epoch, paths, advantage)

    monkeypatch.setattr(ddpo, "update", poisoned)
    with pytest.raises(ValueError, match=r"gave NaN or an infinity.*the last good checkpoint is kept"):
        cases.run(given, tmp_path, epochs=4)
    assert cases.checkpoint.latest(tmp_path / "checkpoints", cases.silent).epoch == 2
    monkeypatch.setattr(ddpo, "update", update)
    said = []
    ddpo.train(cases.config(given, tmp_path, epochs=4), said.append)
    assert said[0] == "going on after epoch 2"


def test_weights_that_are_not_finite_are_never_saved(given, tmp_path):
    run = cases.run(given, tmp_path, epochs=1)
    next(iter(tune.trainable(run.pipeline.unet).values())).data.fill_(math.inf)
    with pytest.raises(ValueError, match="is not finite after epoch 2; the last good checkpoint is kept"):
        run.save(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eta": (0.0,)}, "no step can be trained: with eta = 0.0"),
        ({"eta": (-1.0,)}, "eta must be 0 or more"),
        ({"eta": (1.0, 1.0)}, "eta has 2 values for 4 steps; give one, or one for each step"),
        ({"eta": (1.5,), "sampler": "ddim"}, "eta"),
        ({"sampler": "nonsense"}, "sampler"),
        ({"train_steps": 4}, "train_steps must be 1 to 3, the steps that can be trained, got 4"),
        ({"batch": 9}, "batch 9 must be a multiple of group 2"),
        ({"micro_batch": 3}, r"batch 8 must be a multiple of updates x processes x micro_batch = 1 x 1 x 3 = 3"),
        ({"updates": 3}, "multiple of updates x processes"),
        ({"steps": 0}, "steps must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"evaluation_samples": 1}, "evaluation_samples must be"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"clip": -1.0}, "clip must be positive"),
        ({"guidance": 0.5}, r"guidance must be 1 \(none\) or more, got 0.5"),
        ({"kl_weight": -1.0}, "kl_weight must be 0 or more"),
        ({"kl_target": 0.1, "kl_weight": 0.0}, "kl_target adapts kl_weight, which must then start above 0"),
        ({"ema": 1.0}, "ema must lie between 0 and 1, got 1"),
        ({"rank": None, "dtype": "bfloat16"}, "all weights are trained in float32, got bfloat16"),
        ({"rank": 0}, "rank must be"),
        ({"model": "/nowhere"}, "no such model: /nowhere"),
        ({"reward": "beauty"}, "unknown reward 'beauty'"),
        ({"families": ("crowd",)}, "unknown families 'crowd'; known: single, pair, count"),
        ({"families": ()}, "families must name one or more of single, pair, count, once"),
        ({"std_power": -1.0}, "std_power must be 0 or more"),
        ({"reward": "jpeg_compressibility", "also": ("jpeg_compressibility",)}, "two rewards have one name"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(given, tmp_path, changes, message):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        cases.run(given, out, **changes)
    assert not out.exists()


def test_a_tracker_that_is_missing_is_refused(given, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="the tracker wandb is not installed; pip install wandb, or pass --tracker no"):
        cases.run(given, tmp_path / "out", tracker="wandb")


def test_the_plan_counts_passes_and_writes_nothing(given, tmp_path, capsys):
    out = tmp_path / "out"
    config = cases.config(given, out, epochs=3, kl_weight=0.1, train_steps=2, dry_run=True, evaluate_every=2)
    found = planned(config)
    assert found["images for training"] == 24
    assert found["network passes, rollout"] == 24 * 4 * 2
    assert found["network passes with gradient"] == found["network passes, reference"] == 24 * 2 * 2
    assert found["steps that can be trained"] == [0, 1, 2]
    assert found["evaluations"] == 3
    assert found["trained parameters"] == sum(p.numel() for p in assemble(config, cases.silent).parameters)
    command.main(config)
    assert "images for training: 24" in capsys.readouterr().out
    assert not out.exists()


def test_the_command_line_trains_and_says_errors_in_a_line(given, tmp_path, capsys):
    paths = ["--model", str(given["model"]), "--prompts", str(given["prompts"]), "--out", str(tmp_path / "out"),
             "--evaluation-prompts", str(given["evaluation_prompts"])]  # fmt: skip
    command.main(command.cli([*paths, *SMALL]))
    assert "epoch 0: reward" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"error: .* holds another run"):
        command.main(command.cli([*paths, *SMALL, "--seed", "1"]))


def test_an_interrupt_says_how_to_go_on(given, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ddpo, "train", interrupted)
    with pytest.raises(SystemExit, match="interrupted; the same command goes on from the last checkpoint in"):
        command.main(cases.config(given, tmp_path / "out"))


def test_what_the_command_leaves_open_is_ddpo_as_published_for_models_that_are_not_brought_along():
    own, other = command.cli([]), command.cli(["--model", "owner/name", "--eta", "1.2"])
    assert (own.model, own.steps, own.rank) == ("embedded", 10, None)
    assert own.kl_weight > 0
    assert {name: getattr(other, name) for name in PUBLISHED} == PUBLISHED
    assert (other.model, other.eta) == ("owner/name", (1.2,))
    assert command.cli(["--model=owner/name", "--steps", "20"]).steps == 20
    check(own, 1)
    check(other, 8)
