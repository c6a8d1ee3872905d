"""The rewards built on CLIP, on tiny models, against the PIL processor with transformers' or plain torch encoders."""

import pytest
import torch
import torch.nn.functional as F
from reference_encoders import OpenClip
from reward_models import (
    CONTEXT,
    PATCH,
    PROJECTION,
    PROMPTS,
    SIZE,
    WIDTH,
    answer_no,
    assert_scores,
    clip_folder,
    clip_tokenizer,
    images,
    linear_layers,
    randomise,
)
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from empirical.rewards import load, score, to_pil
from empirical.rewards.clip import clip_score, hps_v2, pick_score

HEAD = ([PROJECTION, 20, 8, 1], [0, 2, 3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def pixels(folder, batch):
    return CLIPImageProcessorPil.from_pretrained(folder)(to_pil(batch), return_tensors="pt").pixel_values


def embeddings(folder, batch, prompts):
    """The other route: PIL, transformers' own features, each prompt by itself."""
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = []
    with torch.no_grad():
        for prompt in prompts:
            ids = tokenizer([prompt], truncation=True, max_length=CONTEXT, return_tensors="pt")
            texts.append(model.get_text_features(**ids).pooler_output)
        return model.get_image_features(pixels(folder, batch)).pooler_output, torch.cat(texts)


def cosine(folder, batch, prompts=PROMPTS):
    return F.cosine_similarity(*embeddings(folder, batch, prompts))


def test_clip_score_is_100_times_the_cosine(folder):
    assert_scores(score(load(f"clip_score@{folder}"), images(), PROMPTS), 100 * cosine(folder, images()))


def test_resizing_costs_no_more_than_a_rounding_of_pil(folder):
    batch = images(4, 150, 100)
    assert_scores(score(load(f"clip_score@{folder}"), batch, PROMPTS), 100 * cosine(folder, batch), tolerance=0.02)


def test_pick_score_is_the_logit(folder):
    scale = CLIPModel.from_pretrained(folder).logit_scale.detach().exp()
    assert_scores(score(load(f"pick_score@{folder}"), images(), PROMPTS), scale * cosine(folder, images()))


def test_the_prompt_matters_and_long_ones_are_cut(folder):
    reward, batch = load(f"clip_score@{folder}"), images(1).expand(3, -1, -1, -1)
    short, long, longer = score(
        reward, batch, ["a", "a circle and a square", "a circle and a square and more"]
    ).tolist()
    assert short != pytest.approx(long)
    assert long == pytest.approx(longer)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_do_not_depend_on_the_batch(folder, batch_size):
    reward = load(f"clip_score@{folder}:2+pick_score@{folder}")
    assert_scores(score(reward, images(), PROMPTS, batch_size), score(reward, images(), PROMPTS))


def test_permuted_images_have_permuted_scores(folder):
    reward, order = load(f"clip_score@{folder}"), [3, 1, 0, 2]
    value = score(reward, images(), PROMPTS)
    assert_scores(score(reward, images()[order], [PROMPTS[i] for i in order]), value[order])


def test_a_bfloat16_network_gives_float32_scores_near_the_others(folder):
    exact = score(load(f"clip_score@{folder}"), images(), PROMPTS)
    rough = score(load(f"clip_score@{folder}", dtype=torch.bfloat16), images().bfloat16(), PROMPTS)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 2  # of 100


def test_a_half_precision_checkpoint_is_computed_in_float32_unless_told(folder, tmp_path):
    CLIPModel.from_pretrained(folder).half().save_pretrained(tmp_path)
    assert clip_score(str(tmp_path), str(folder)).clip.model.dtype == torch.float32
    assert clip_score(str(tmp_path), str(folder), dtype=torch.float16).clip.model.dtype == torch.float16


@pytest.mark.parametrize("spec", ["clip_score@{0}", "pick_score@{0}", "aesthetic@{1},{0}"])
def test_network_and_scores_follow_the_images_to_their_device(spec, folder, tmp_path, monkeypatch):
    answer_no(monkeypatch)
    torch.save(linear_layers(*HEAD), tmp_path / "head.pth")
    reward = load(spec.format(folder, tmp_path / "head.pth"))
    value = reward(images().to("meta"), PROMPTS)
    assert value.device.type == "meta"
    assert value.shape == (4,)


def test_a_device_of_its_own_goes_before_that_of_the_images(folder, monkeypatch):
    answer_no(monkeypatch)
    assert load(f"clip_score@{folder}", device="meta")(images(), PROMPTS).device.type == "meta"


def test_embeddings_carry_no_gradient(folder):
    assert not any(parameter.requires_grad for parameter in clip_score(str(folder)).clip.parameters())


@pytest.fixture(scope="module")
def open_model():
    torch.manual_seed(0)
    model = OpenClip(len(clip_tokenizer()), CONTEXT, SIZE, PATCH, WIDTH, 2, PROJECTION)
    randomise(model, 1)
    return model.eval()


@pytest.fixture(params=["pt", "safetensors"])
def open_file(request, open_model, tmp_path):
    path, state = tmp_path / f"hps.{request.param}", open_model.state_dict()
    if request.param == "pt":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        save_file(state, path)
    return path


def test_hps_is_the_cosine_of_the_open_clip_model(folder, open_model, open_file):
    ids = AutoTokenizer.from_pretrained(folder)(
        PROMPTS, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    )
    with torch.no_grad():
        expected = F.cosine_similarity(open_model.visual(pixels(folder, images())), open_model.text(ids.input_ids))
    assert_scores(score(load(f"hps_v2@{open_file},{folder}"), images(), PROMPTS), expected)


def test_hps_as_a_folder_of_transformers_is_the_same(folder, open_file, tmp_path):
    reward = hps_v2(str(open_file), str(folder))
    reward.clip.model.save_pretrained(tmp_path / "converted")
    again = hps_v2(str(tmp_path / "converted"), str(folder))
    assert torch.equal(score(again, images(), PROMPTS), score(reward, images(), PROMPTS))


def test_weights_of_another_architecture_are_refused(folder, open_model, tmp_path):
    state = open_model.state_dict()
    lost = {name: value for name, value in state.items() if "ln_final" not in name} | {"extra": torch.zeros(1)}
    torch.save(lost, tmp_path / "lost.pt")
    with pytest.raises(ValueError, match=r"2 tensors are missing .*final_layer_norm.*1 are unknown \['extra'\]"):
        hps_v2(str(tmp_path / "lost.pt"), str(folder))
    state["token_embedding.weight"] = torch.zeros(5, WIDTH)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"token_embedding.weight has shape \(5, 32\) .*name the base"):
        hps_v2(str(tmp_path / "other.pt"), str(folder))


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_aesthetic_is_the_head_on_the_unit_image_embedding(folder, tmp_path, form):
    state, path = dict(reversed(linear_layers(*HEAD).items())), tmp_path / f"head.{form}"
    torch.save(state, path) if form == "pth" else save_file(state, path)
    x = F.normalize(embeddings(folder, images(), PROMPTS)[0], dim=-1)
    for place in HEAD[1]:
        x = x @ state[f"layers.{place}.weight"].T + state[f"layers.{place}.bias"]
    reward = load(f"aesthetic@{path},{folder}")
    assert_scores(score(reward, images(), PROMPTS), x[:, 0])
    assert torch.equal(score(reward, images(), PROMPTS), score(reward, images(), ["other"] * 4))


@pytest.mark.parametrize(
    ("widths", "places"),
    [([PROJECTION, 8, 2], [0, 2]), ([PROJECTION + 1, 8, 1], [0, 2]), ([PROJECTION, 1], [0])],
    ids=["two outputs", "wrong input", "no bias"],
)
def test_a_head_that_does_not_fit_is_refused(folder, tmp_path, widths, places):
    state = linear_layers(widths, places)
    if len(places) == 1:
        del state["layers.0.bias"]
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"linear layers layers.<i>.weight .*from 24 inputs to 1 output, got shapes"):
        load(f"aesthetic@{tmp_path}/head.pth,{folder}")


@pytest.mark.parametrize("name", ["clip_score", "pick_score"])
def test_a_missing_folder_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no CLIP model at {tmp_path}/none: nothing is there"):
        load(f"{name}@{tmp_path}/none")


@pytest.mark.parametrize("spec", ["aesthetic@{}/none.pth", "hps_v2@{}/none.pt", "image_reward@{}/none.pt"])
def test_missing_weights_are_named(spec, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"weights at {tmp_path}/none\.pth?: nothing is there"):
        load(spec.format(tmp_path))


@pytest.mark.parametrize(
    "spec", ["clip_score", "pick_score@owner/model", "aesthetic", "hps_v2@owner/model/file.pt", "image_reward"]
)
def test_what_the_hub_does_not_give_says_how_to_go_on(spec):
    with pytest.raises(OSError, match=r"no such path here, and the model hub does not give it .*pass its path"):
        load(spec)


def test_weights_need_a_file():
    with pytest.raises(ValueError, match="give its path, or owner/name/file on the hub, got 'owner/name'"):
        load("aesthetic@owner/name")


def test_a_folder_without_a_tokenizer_is_named(folder, tmp_path):
    CLIPModel.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(OSError, match=rf"no CLIP tokenizer at {tmp_path}: .*clip_score@MODEL,PROCESSOR"):
        load(f"clip_score@{tmp_path}")
    assert_scores(score(load(f"clip_score@{tmp_path},{folder}"), images(), PROMPTS), 100 * cosine(folder, images()))


def test_without_a_saved_image_processor_clips_usual_one_is_used(folder, tmp_path):
    CLIPModel.from_pretrained(folder).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    preprocess = clip_score(str(tmp_path)).clip.preprocess
    theirs = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    expected = theirs(to_pil(images()), return_tensors="pt").pixel_values
    torch.testing.assert_close(preprocess(images()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (b"not weights", "pth", "cannot be read as aesthetic weights, is it damaged"),
        (b"not weights", "safetensors", "cannot be read as aesthetic weights, is it damaged"),
        (b"", "pth", "cannot be read as aesthetic weights, is it damaged"),
        ([1, 2], "pth", "does not hold aesthetic weights: expected tensors by name"),
        ({"layers.0.weight": "text"}, "pth", "expected tensors by name"),
    ],
)
def test_damaged_weights_are_refused(content, suffix, message, folder, tmp_path):
    path = tmp_path / f"head.{suffix}"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load(f"aesthetic@{path},{folder}")


class Malicious:
    """What a pickle could run."""

    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_a_pickle_that_runs_code_is_refused(folder, tmp_path, capsys):
    torch.save({"layers.0.weight": Malicious()}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match="cannot be read as aesthetic weights"):
        load(f"aesthetic@{tmp_path}/head.pth,{folder}")
    assert "must not" not in capsys.readouterr().out


def test_pick_score_takes_its_own_processor_where_it_has_one(folder, tmp_path):
    CLIPModel.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="laion/CLIP-ViT-H-14"):
        pick_score(str(tmp_path))
    assert_scores(
        score(pick_score(str(tmp_path), str(folder)), images(), PROMPTS),
        score(pick_score(str(folder)), images(), PROMPTS),
    )
