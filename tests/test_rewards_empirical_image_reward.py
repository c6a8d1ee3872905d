"""ImageReward on a tiny network in the authors' format, against BLIP written out in plain torch."""

import pytest
import torch
from reference_encoders import Blip
from reward_models import PROMPTS, answer_no, assert_scores, bert_folder, images, linear_layers, randomise
from transformers import AutoTokenizer, CLIPImageProcessorPil

from empirical.rewards import load, score, to_pil
from empirical.rewards.image_reward import image_reward

SIZE, PATCH, VISION, TEXT, VOCABULARY = 32, 16, 128, 64, 66
HEAD = ([TEXT, 12, 4, 1], [0, 2, 4])
STANDARD = (0.16717362830052426, 1.0333394966054072)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return bert_folder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Blip(VOCABULARY, SIZE, PATCH, VISION, TEXT)
    randomise(model, 2)
    return model.eval()


@pytest.fixture
def state(network):
    return network.state_dict() | linear_layers(*HEAD, prefix="mlp.layers.", seed=3)


@pytest.fixture
def file(state, tmp_path):
    torch.save(state, tmp_path / "ImageReward.pt")
    return tmp_path / "ImageReward.pt"


def expected(network, state, tokenizer, batch, prompts):
    square = {"height": SIZE, "width": SIZE}
    pixels = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=square)(to_pil(batch), return_tensors="pt")
    ids = AutoTokenizer.from_pretrained(tokenizer)(prompts, padding=True, truncation=True, max_length=35)
    ids = {name: torch.tensor(value) for name, value in ids.items()}
    with torch.no_grad():
        x = network(pixels.pixel_values, ids["input_ids"], ids["attention_mask"])
        for place in HEAD[1]:
            x = x @ state[f"mlp.layers.{place}.weight"].T + state[f"mlp.layers.{place}.bias"]
    return (x[:, 0] - STANDARD[0]) / STANDARD[1]


def test_scores_are_those_of_the_network_written_out(network, state, file, tokenizer):
    value = score(load(f"image_reward@{file},{tokenizer}"), images(), PROMPTS)
    assert_scores(value, expected(network, state, tokenizer, images(), PROMPTS), tolerance=1e-3)


def test_the_prompt_matters(file, tokenizer):
    reward, batch = image_reward(str(file), str(tokenizer)), images(1).expand(3, -1, -1, -1)
    first, second, third = score(reward, batch, ["Red Circle", "red circle", "two"]).tolist()
    assert first == pytest.approx(second)
    assert first != pytest.approx(third, rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_do_not_depend_on_the_batch(file, tokenizer, batch_size):
    reward = load(f"image_reward@{file},{tokenizer}")
    assert_scores(score(reward, images(), PROMPTS, batch_size), score(reward, images(), PROMPTS))


def test_a_bfloat16_network_gives_float32_scores_near_the_others(file, tokenizer):
    exact = score(load(f"image_reward@{file},{tokenizer}"), images(), PROMPTS)
    rough = score(load(f"image_reward@{file},{tokenizer}", dtype=torch.bfloat16), images(), PROMPTS)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.1


def test_network_and_scores_follow_the_images_to_their_device(file, tokenizer, monkeypatch):
    answer_no(monkeypatch)
    value = load(f"image_reward@{file},{tokenizer}")(images().to("meta"), PROMPTS)
    assert (value.device.type, value.shape) == ("meta", (4,))
    assert load(f"image_reward@{file},{tokenizer}", device="meta")(images(), PROMPTS).device.type == "meta"


def test_other_weights_are_refused(state, tokenizer, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(linear_layers(*HEAD), path)
    with pytest.raises(ValueError, match="does not hold ImageReward's weights: 'pos_embed' is missing or unknown"):
        image_reward(str(path), str(tokenizer))
    del state["blip.text_encoder.encoder.layer.1.output.dense.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"encoder.layer.1.output.dense.bias' is missing or unknown"):
        image_reward(str(path), str(tokenizer))


def test_a_position_buffer_of_old_checkpoints_is_no_weight(state, tokenizer, tmp_path):
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save(state, tmp_path / "old.pt")
    assert score(image_reward(str(tmp_path / "old.pt"), str(tokenizer)), images(), PROMPTS).isfinite().all()
