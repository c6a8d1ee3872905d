"""The tokenizer, the pipeline and the committed weights."""

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import CLIPTokenizer

from empirical.shapes import alignment, autoencoder, load_pipeline, model, tokenizer
from empirical.shapes.caption import every_request, read, request_of, write
from empirical.shapes.draw import draw
from empirical.shapes.scene import FAMILIES, scene
from empirical.shapes.verify import verify

TOKENIZER = tokenizer.new()


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline()


def test_every_word_is_one_token():
    for word in tokenizer.WORDS:
        begin, _, end = TOKENIZER(word).input_ids
        assert (begin, end) == (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id)


def test_the_ids_are_those_the_committed_weights_were_trained_with(pipeline):
    """Weights fit one vocabulary only, and another process wrote this one: learning it must not depend on chance."""
    captions = [write(request) for request in every_request()]
    assert pipeline.tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert pipeline.tokenizer(captions).input_ids == TOKENIZER(captions).input_ids
    assert [TOKENIZER.get_vocab()[word + "</w>"] for word in ("a", "at", "of", "on")] == [37, 64, 88, 87]


def test_the_relation_asked_for_is_the_one_that_is_drawn(pipeline):
    """The negative control of alignment: asked for the opposite, it draws the opposite, and the original fails."""
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    texts = alignment.prompts(16, "pair", 7)
    turned = [text.replace(relation, opposite[relation]) for text in texts for relation in [read(text).relation]]
    pictures = alignment.generate(pipeline, turned, 20, 4.0)
    assert verify(pictures, turned).passed.float().mean() >= 0.75
    assert not verify(pictures, texts).passed.any()


def test_every_caption_has_a_token_a_word_and_fits():
    captions = [write(request) for request in every_request()]
    for text, ids in zip(captions, TOKENIZER(captions).input_ids, strict=True):
        assert len(ids) == len(text.split()) + 2 <= tokenizer.LENGTH
        assert TOKENIZER.decode(ids[1:-1]) == text


def test_the_tokenizer_is_clips_own_class_and_survives_saving(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    text = "a large red circle at the left on a white background"
    assert loaded(text, padding="max_length").input_ids == TOKENIZER(text, padding="max_length").input_ids
    assert len(loaded(text, padding="max_length").input_ids) == tokenizer.LENGTH


def test_the_text_encoder_knows_the_special_tokens():
    config = model.text_encoder(TOKENIZER).config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (
        TOKENIZER.bos_token_id,
        TOKENIZER.eos_token_id,
        TOKENIZER.pad_token_id,
    )
    assert config.vocab_size == len(TOKENIZER)


def test_a_pipeline_survives_saving_up_to_half_precision(tmp_path):
    torch.manual_seed(0)
    made = model.pipeline(
        autoencoder.new(16), model.text_encoder(TOKENIZER), TOKENIZER, model.denoiser(16), "v_prediction"
    )
    before = {name: part.clone() for name, part in made.unet.state_dict().items()}
    model.save_pipeline(made, tmp_path)
    loaded = model.load_pipeline(tmp_path)
    for name, part in made.unet.state_dict().items():
        assert torch.equal(part, before[name])
        torch.testing.assert_close(loaded.unet.state_dict()[name], part.half().float(), rtol=0, atol=0)
    assert loaded.scheduler.config.prediction_type == "v_prediction"


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model in .*; python -m empirical\.shapes\.pretrain makes one"):
        model.load_pipeline(tmp_path)


def test_prompts_are_of_scenes_that_training_does_not_hold():
    assert alignment.prompts(3, "pair") == alignment.prompts(5, "pair")[:3]
    with pytest.raises(ValueError, match="the seed of prompts must be odd, got 2; even seeds are for training"):
        alignment.prompts(3, "pair", seed=2)


def test_the_committed_model_is_small():
    sizes = [path.stat().st_size for path in model.WEIGHTS.rglob("*") if path.is_file()]
    assert sum(sizes) < 8e6


def test_the_committed_model_runs_offline(pipeline, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    image = pipeline("a red circle", num_inference_steps=2).images[0]
    assert image.size == (32, 32)


def test_its_schedule_is_stable_diffusions(pipeline):
    config = pipeline.scheduler.config
    assert (config.beta_schedule, config.beta_start, config.beta_end) == ("scaled_linear", 0.00085, 0.012)
    assert (config.timestep_spacing, config.steps_offset) == ("leading", 1)
    assert not config.set_alpha_to_one
    assert not config.clip_sample


def test_pictures_survive_the_committed_autoencoder(pipeline):
    for family in FAMILIES:
        scenes = [scene(13, index, family) for index in range(40)]
        pictures = draw(scenes)
        with torch.no_grad():
            latents = pipeline.vae.encode(2 * pictures - 1).latents
            again = (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        assert verify(again, [write(request_of(one)) for one in scenes]).passed.float().mean() >= 0.95
        assert latents.mean().abs() < 0.1
        assert 0.9 < latents.std() < 1.1


def test_a_picture_does_not_depend_on_what_is_made_beside_it(pipeline):
    texts = alignment.prompts(4, "single")
    together = alignment.generate(pipeline, texts, 3, 4.0)
    torch.testing.assert_close(alignment.generate(pipeline, texts[:2], 3, 4.0), together[:2], rtol=0, atol=1e-3)


def test_the_committed_model_draws_what_is_asked(pipeline):
    found = alignment.measure(pipeline, 12, 20, 4.0)
    for family in FAMILIES:
        assert found[family].passed.float().mean() >= 0.75
        assert found[family].score.mean() >= 0.8


def test_the_early_model_shares_autoencoder_and_tokenizer_and_knows_less(pipeline):
    early = load_pipeline(model.FOLDERS["embedded-early"])
    assert not any((model.FOLDERS["embedded-early"] / name).exists() for name in model.SHARED)
    for name, part in early.vae.state_dict().items():
        assert torch.equal(part, pipeline.vae.state_dict()[name])
    texts = alignment.prompts(40, "pair", 7)
    shares = [verify(alignment.generate(one, texts, 10, 4.0), texts).passed.float().mean() for one in (early, pipeline)]
    assert 0.2 < shares[0] < 0.85 < shares[1]


def test_the_flow_model_is_of_stable_diffusion_3s_classes_and_draws_what_is_asked():
    flow = load_pipeline(model.FOLDERS["embedded-flow"])
    assert isinstance(flow, StableDiffusion3Pipeline)
    assert flow.text_encoder_3 is None
    found = alignment.measure(flow, 12, 20, 4.0)
    for family in FAMILIES:
        assert found[family].passed.float().mean() >= 0.75
        assert found[family].score.mean() >= 0.8


def test_all_committed_weights_together_stay_below_15_mb():
    sizes = [path.stat().st_size for path in model.WEIGHTS.parent.rglob("*.safetensors")]
    assert len(sizes) == 8
    assert sum(sizes) < 15e6


def test_a_pipeline_saved_without_its_shared_parts_loads_with_those_of_the_finished_model(tmp_path, pipeline):
    model.save_pipeline(pipeline, tmp_path, whole=False)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["scheduler", "text_encoder", "unet"]
    loaded = model.load_pipeline(tmp_path)
    assert torch.equal(loaded.vae.decoder.layers[0].weight, pipeline.vae.decoder.layers[0].weight)
