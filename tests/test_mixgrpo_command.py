"""MixGRPO as a command: Stable Diffusion 3 and Flux through training, checkpoint, resume and gap meter; refusals."""

import json
from dataclasses import replace

import ddpo_cases as cases
import pipelines as tiny
import pytest
import torch
from diffusers import FluxPipeline, SD3Transformer2DModel, StableDiffusion3Pipeline

from empirical import train_mixgrpo as command
from empirical.meter.pipelines import load
from empirical.rewards import jpeg
from empirical.training import mixgrpo
from empirical.training.mixgrpo_config import MixGRPOConfig
from empirical.training.plan import planned
from empirical.training.settings import check

MODELS = {"sd": tiny.stable_diffusion, "sd3": tiny.stable_diffusion_3, "flux": tiny.flux}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    files = cases.files(folder)
    for name, make in MODELS.items():
        make().save_pretrained(folder / name)
    return {name: {**files, "model": folder / name} for name in MODELS}


def config(given, out, **changes):
    settings = {
        "size": 16, "steps": 6, "window": 2, "interval": 1, "guidance": 1.0, "epochs": 2, "batch": 8, "group": 2,
        "micro_batch": 4,
        "rank": 2, "evaluate_every": 100, "tracker": "none", "learning_rate": 1e-2, "kl_weight": 0.01, "ema": None,
        "reward": "jpeg_compressibility", "also": (),
    }  # fmt: skip
    return MixGRPOConfig(**{**given, "model": str(given["model"]), "out": out, **settings, **changes})


def run(given, out, **changes):
    return mixgrpo.train(config(given, out, **changes), cases.silent)


def lines(out, kind):
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_run_that_stopped_ends_bit_for_bit_as_one_left_alone_and_is_measured(given, tmp_path, name):
    alone = run(given[name], tmp_path / "alone", epochs=3, flash=1)
    run(given[name], tmp_path / "parts", epochs=1, flash=1)
    parts = run(given[name], tmp_path / "parts", epochs=3, flash=1)
    for left, right in zip(alone.parameters, parts.parameters, strict=True):
        assert torch.equal(left, right)
    saved = "weights/pytorch_lora_weights.safetensors"
    assert (tmp_path / "alone" / saved).read_bytes() == (tmp_path / "parts" / saved).read_bytes()
    first, *_, last = lines(tmp_path / "alone", "evaluation")
    assert first["path_kl"] == 0
    assert last["path_kl"] > 0
    assert {row["role"] for row in last["gaps"]} >= {"model", "reference"}
    assert all(row["ode"] == pytest.approx(row["sde"] + row["value"]) for row in last["gaps"])
    trained = [set(map(int, line["trained_steps"])) for line in lines(tmp_path / "alone", "epoch")]
    assert trained == [{0, 1}, {1, 2}, {2, 3}]


def test_what_the_command_does_by_itself_is_train_the_embedded_flow_model(tmp_path):
    config = replace(
        command.cli([]), out=tmp_path, epochs=1, batch=16, micro_batch=8, evaluation_samples=2,
        evaluate_every=100, tracker="none", evaluation_prompts=tmp_path / "judged.txt",
    )  # fmt: skip
    config.evaluation_prompts.write_text("a red circle\ntwo blue squares\n", encoding="utf-8")
    check(config, 1)
    mixgrpo.train(config, cases.silent)
    (line,) = lines(tmp_path, "epoch")
    assert set(line["trained_steps"]) == {"0", "1", "2", "3"}
    assert line["network_passes"] == {"rollout": 16 * 25, "gradient": 16 * 4, "reference": 16 * 4}
    assert line["guard_log_ratio_over_tolerance"] == 0


@pytest.mark.parametrize(("name", "kind"), [("sd3", StableDiffusion3Pipeline), ("flux", FluxPipeline)])
def test_the_adapters_load_in_plain_diffusers_and_change_its_images(given, tmp_path, name, kind):
    trained = run(given[name], tmp_path, epochs=1, learning_rate=0.1)
    plain = load(str(given[name]["model"]))  # from_pretrained, told which parts are absent
    plain.set_progress_bar_config(disable=True)
    assert type(plain) is kind
    before = images(plain)
    plain.load_lora_weights(tmp_path / "weights")
    assert not torch.equal(images(plain), before)
    torch.testing.assert_close(images(plain), images(trained.pipeline), rtol=1e-4, atol=1e-5)


def test_the_card_of_a_whole_denoiser_says_how_plain_diffusers_takes_it(given, tmp_path):
    trained = run(given["sd3"], tmp_path, epochs=1, rank=None, learning_rate=1e-3)
    text = (tmp_path / "weights" / "README.md").read_text()
    assert "A denoiser fine-tuned by MixGRPO for a StableDiffusion3Pipeline" in text
    plain = load(str(given["sd3"]["model"]))
    plain.set_progress_bar_config(disable=True)
    code = text.split("```python\n")[1].split("```")[0]
    exec(code, {"pipe": plain, "FOLDER": tmp_path / "weights", "SD3Transformer2DModel": SD3Transformer2DModel})
    torch.testing.assert_close(images(plain), images(trained.pipeline), rtol=1e-4, atol=1e-5)


def images(pipeline):
    return pipeline(
        "two dogs", num_inference_steps=3, height=16, width=16, output_type="pt", guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"window": None, "sampler": "flow-grpo", "eta": (0.5,), "shared_noise": False},
        {"window": 1, "sampler": "flow-grpo", "eta": (0.5,), "position": "random"},
        {"window": None, "sampler": "dance-grpo", "eta": (0.3,)},
        {"window": None, "sampler": "cps", "eta": (0.5,)},
        {"window": 2, "first": 1, "position": "fixed", "flash": 2, "eta": (1.3,)},
        {"window": 2, "kl_weight": 0.0, "std_power": 0.0, "updates": 2},
    ],
)
def test_the_published_algorithms_are_settings(given, tmp_path, settings):
    run(given["sd3"], tmp_path, epochs=1, **settings)
    (line,) = lines(tmp_path, "epoch")
    # all but the last step, and of cps the one before, which ends at t = .001 with as small a std
    width = settings["window"] or (4 if settings["sampler"] == "cps" else 5)
    assert len(line["trained_steps"]) == width
    assert line["guard_log_ratio_over_tolerance"] == 0
    assert all(norm > 0 for norm in line["gradient_norm"])


def test_rewards_are_added_before_or_after_they_are_normalised(given, tmp_path):
    both = "jpeg_compressibility+jpeg_incompressibility:100"
    for aggregate in ("reward", "advantage"):
        settings = {"reward": both, "aggregate": aggregate, "spread": "group"}
        made = mixgrpo.start(config(given["sd"], tmp_path / aggregate, **settings), cases.silent)
        found = mixgrpo.advantages(made, {"jpeg_compressibility": -SIZES, "jpeg_incompressibility": SIZES})
        if aggregate == "reward":  # 99 times the size
            torch.testing.assert_close(found.value, torch.tensor([-1.0, 1, -1, 1, 1, -1]), rtol=1e-5, atol=1e-5)
        else:  # 100 - 1, each normalised
            torch.testing.assert_close(found.value, 99 * torch.tensor([-1.0, 1, -1, 1, 1, -1]), rtol=1e-5, atol=1e-4)


def test_groups_of_more_spread_weigh_more_under_one_std_for_all(given, tmp_path):
    made = mixgrpo.start(config(given["sd"], tmp_path), cases.silent)
    found = mixgrpo.advantages(made, {"reward": SIZES})  # centred: .5, 2, .5
    expected = torch.tensor([-0.5, 0.5, -2.0, 2.0, 0.5, -0.5]) / 1.5**0.5
    torch.testing.assert_close(found.value, expected, rtol=1e-5, atol=1e-5)


SIZES = torch.tensor([1.0, 2.0, 3.0, 7.0, 5.0, 4.0])


def test_a_reward_that_failed_is_masked_and_counted(given, tmp_path, monkeypatch):
    def failing(images, prompts):
        return torch.tensor([float("nan") if "cat" in prompt else float(len(prompt)) + k for k, prompt in
                             enumerate(prompts)])  # fmt: skip

    monkeypatch.setattr(jpeg, "jpeg_compressibility", failing)
    run(given["sd"], tmp_path, epochs=1)
    (line,) = lines(tmp_path, "epoch")
    assert line["rewards_failed"] == 2
    assert "a red cat" in line["first_failure"]
    assert line["samples_kept"] == 6


def test_what_is_left_open_depends_on_the_model():
    own, other = command.cli([]), command.cli(["--model", "owner/name", "--steps", "20"])
    assert own == MixGRPOConfig()
    assert {name: getattr(other, name) for name in command.PUBLISHED} == command.PUBLISHED
    assert (other.model, other.steps, other.window) == ("owner/name", 20, own.window)
    check(other, 1)


def test_the_plan_counts_what_the_run_counts(given, tmp_path):
    settings = {"epochs": 3, "flash": 1, "guidance": 3.0}
    plan = planned(config(given["sd"], tmp_path / "plan", **settings))
    run(given["sd"], tmp_path / "run", **settings)
    for key, name in (("rollout", "rollout"), ("gradient", "with gradient"), ("reference", "reference")):
        counted = sum(line["network_passes"][key] for line in lines(tmp_path / "run", "epoch"))
        assert plan[f"network passes, {name}" if key != "gradient" else "network passes with gradient"] == counted
    assert plan["steps that can be trained"] == [0, 1, 2, 3]
    assert not (tmp_path / "plan").exists()


def test_a_later_window_without_a_step_to_train_is_refused_before_any_work(given, tmp_path):
    """Of SD3's grid the step before the last ends at t = .001, with too small a std."""
    assert planned(config(given["sd3"], tmp_path, window=2, epochs=9))["steps that can be trained"] == [0, 1, 2, 3]
    with pytest.raises(SystemExit, match=r"no step can be trained: .* or has a std below 0.01"):
        command.main(config(given["sd3"], tmp_path / "out", window=1, epochs=9))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 6}, "a window of 6 does not fit: 6 steps have 5 that can be trained"),
        ({"first": 4}, "can start at 0 to 3, got first = 4"),
        ({"eta": (1.0,) * 6}, "a window takes one eta, got 6 values; or leave it out with --window None"),
        ({"eta": (0.0,)}, "no step can be trained"),
        ({"window": 1, "train_steps": 2}, "train_steps must be 1 to 1"),
        ({"flash": 0}, "flash must be at least 1, got 0"),
        ({"micro_batch": 1}, "group 2 does not divide micro_batch 1"),
        ({"sampler": "euler-maruyama"}, "euler-maruyama"),
        ({"window": None, "flash": 1}, "0 of 6 steps are left after the window"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(given, tmp_path, changes, message):
    name = "sd3" if "sampler" in changes else "sd"
    with pytest.raises(SystemExit, match=message):
        command.main(config(given[name], tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
