"""Which pipelines are known, what is refused, and what the meter asks of each class."""

import json

import pipelines as tiny
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from peft import LoraConfig

from empirical.meter import pipelines

NAMES = list(tiny.PIPELINES)


@pytest.mark.parametrize("name", NAMES)
def test_x_T_has_the_shape_that_the_class_itself_would_draw(name):
    pipeline = tiny.PIPELINES[name]()
    assert pipelines.latent_shape(pipeline, None) == ((16, 16) if name == "flux" else (4, 8, 8))
    assert pipelines.image_size(pipeline, None) == (16, 16)
    assert pipelines.latent_shape(pipeline, 32)[-2:] == ((64, 16) if name == "flux" else (16, 16))


def test_guidance_is_an_input_of_distilled_flux_and_classifier_free_elsewhere():
    assert pipelines.guidance_arguments(tiny.stable_diffusion(), 5.0, 2) == {"guidance_scale": 5.0}
    assert pipelines.guidance_arguments(tiny.flux(), 3.5, 2) == {"guidance_scale": 3.5}
    schnell = pipelines.guidance_arguments(tiny.flux(guidance_embeds=False), 3.5, 2)
    assert schnell == {"true_cfg_scale": 3.5, "negative_prompt": ["", ""]}


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_saved_pipeline_is_loaded_by_its_class_and_has_the_same_weights(name, tmp_path):
    pipeline = tiny.PIPELINES[name]()
    pipeline.save_pretrained(tmp_path)
    loaded = pipelines.load(str(tmp_path))
    assert type(loaded) is type(pipeline)
    assert pipelines.fingerprint(loaded) == pipelines.fingerprint(pipeline)


def test_the_fingerprint_sees_any_weight():
    pipeline = tiny.stable_diffusion()
    before = pipelines.fingerprint(pipeline)
    pipeline.vae.decoder.conv_out.bias[0] += 1e-6
    assert pipelines.fingerprint(pipeline) != before


@pytest.mark.parametrize("source", ["/no/such/folder", "nonsense", "./below"])
def test_a_model_that_does_not_exist_is_refused(source):
    with pytest.raises(ValueError, match=f"no such model: {source} is no folder; give a diffusers folder"):
        pipelines.load(source)


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no such model: .* holds no diffusers pipeline"):
        pipelines.load(str(tmp_path))


def test_an_id_that_the_hub_does_not_give_is_refused(monkeypatch):
    def refuse(source):
        raise OSError("offline mode is enabled\nand more")

    monkeypatch.setattr(pipelines.DiffusionPipeline, "load_config", refuse)
    with pytest.raises(ValueError, match=r"no such model: some/model holds no .* here or on the hub: offline mode"):
        pipelines.load("some/model")


def test_an_unknown_class_is_refused_by_name_from_a_folder_and_as_an_object(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(ValueError, match=r"does not know the pipeline class WanPipeline; it knows StableDiffusionPip"):
        pipelines.load(str(tmp_path))
    unet = UNet2DModel(8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
                       down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))  # fmt: skip
    with pytest.raises(ValueError, match="does not know the pipeline class DDPMPipeline"):
        pipelines.checked(DDPMPipeline(unet, DDPMScheduler()))


def test_a_network_in_training_mode_is_refused():
    pipeline = tiny.stable_diffusion()
    pipeline.text_encoder.train()
    with pytest.raises(ValueError, match=r"text_encoder is in training mode.*call pipeline.text_encoder.eval\(\)"):
        pipelines.checked(pipeline)


def test_what_alters_images_after_sampling_is_refused():
    pipeline = tiny.stable_diffusion()
    pipeline.safety_checker = torch.nn.Identity().eval()
    with pytest.raises(ValueError, match="the safety checker replaces images"):
        pipelines.checked(pipeline)
    pipeline = tiny.stable_diffusion_xl()
    pipeline.watermark = object()
    with pytest.raises(ValueError, match="the watermark alters images"):
        pipelines.checked(pipeline)


def test_adapters_are_off_inside_the_block_and_on_after_it_even_if_it_fails():
    pipeline = tiny.stable_diffusion()
    x, states = torch.ones(1, 4, 8, 8), torch.ones(1, 3, 16)

    def output():
        with torch.no_grad():
            return pipeline.unet(x, 10, states).sample

    before = output()
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    pipeline.unet.eval()
    tuned = output()
    assert not torch.equal(before, tuned)

    def fail():
        with pipelines.without_adapters(pipeline):
            assert torch.equal(output(), before)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.equal(output(), tuned)


def test_a_pipeline_without_lora_has_none_to_switch_off():
    with (
        pytest.raises(ValueError, match="the pipeline has no LoRA to switch off"),
        pipelines.without_adapters(tiny.stable_diffusion()),
    ):
        pass
