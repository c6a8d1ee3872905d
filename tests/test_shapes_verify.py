"""The checker: what it passes, what it refuses, and that it sees pixels only."""

import random

import pytest
import torch

from empirical.shapes.caption import caption, read, request_of, write
from empirical.shapes.draw import coverage, draw, palette
from empirical.shapes.look import AREAS, MOST, SINKS, components, look
from empirical.shapes.scene import BACKGROUNDS, COLORS, FAMILIES, SHAPES, Scene, Thing, scene
from empirical.shapes.verify import judge, verify

N = 150
SCENES = {family: [scene(11, index, family) for index in range(N)] for family in FAMILIES}
PICTURES = {family: draw(scenes) for family, scenes in SCENES.items()}
FULL = {family: [write(request_of(one)) for one in scenes] for family, scenes in SCENES.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_true_captions_pass(family):
    verdict = verify(PICTURES[family], FULL[family])
    assert verdict.passed.all()
    assert verdict.score.min() > 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_of_other_pictures_fail(family):
    shifted = FULL[family][1:] + FULL[family][:1]
    verdict = verify(PICTURES[family], shifted)
    allowed = [one == other for one, other in zip(shifted, FULL[family], strict=True)]
    assert verdict.passed.float().mean() <= max(0.01, sum(allowed) / N)
    assert verdict.score.mean() < 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_caption_leaves_open_is_not_asked(family):
    short = [caption(one, random.Random(index)) for index, one in enumerate(SCENES[family])]
    assert verify(PICTURES[family], short).passed.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_of_a_twentieth_changes_nothing(family):
    noise = 0.05 * torch.randn(PICTURES[family].shape, generator=torch.Generator().manual_seed(0))
    assert verify(PICTURES[family] + noise, FULL[family]).passed.float().mean() > 0.98


def test_a_picture_is_judged_alike_in_any_batch():
    together = verify(PICTURES["pair"][:20], FULL["pair"][:20])
    alone = [verify(PICTURES["pair"][k : k + 1], FULL["pair"][k : k + 1]) for k in range(20)]
    assert torch.equal(together.score, torch.cat([one.score for one in alone]))


def test_turning_a_pair_around_turns_its_relation_around():
    turned, opposite = PICTURES["pair"].flip(-1, -2), {"left of": "right of", "right of": "left of"}
    opposite |= {"above": "below", "below": "above"}
    upright = [k for k in range(N) if all(thing.shape != "triangle" for thing in SCENES["pair"][k].things)]
    texts = [FULL["pair"][k] for k in upright]
    assert not verify(turned[upright], texts).passed.any()
    for k, text in enumerate(texts):
        relation = read(text).relation
        texts[k] = text.replace(relation, opposite[relation])
    assert verify(turned[upright], texts).passed.all()


@pytest.mark.parametrize(
    ("change", "score"),
    [
        ({"color": "blue"}, (0, 0.1)),
        ({"shape": "square"}, (0.5, 0.9)),
        ({"radius": 6.0}, (0.45, 0.5)),
        ({"x": 22.0}, (0.45, 0.5)),
        ({}, (0.95, 1.0)),
    ],
)
def test_every_wrong_attribute_costs(change, score):
    thing = {"shape": "circle", "color": "red", "x": 16.0, "y": 16.0, "radius": 9.0}
    picture = draw([Scene("single", "white", (Thing(**{**thing, **change}),))])
    verdict = verify(picture, ["a large red circle at the center on a white background"])
    assert verdict.passed.item() is (not change)
    assert score[0] <= verdict.score.item() <= score[1]


def test_wrong_background_and_wrong_count_cost():
    red = Thing("circle", "red", 8.0, 16.0, 6.0), Thing("circle", "red", 24.0, 16.0, 6.0)
    one, two = draw([Scene("single", "black", red[:1])]), draw([Scene("count", "black", red)])
    for picture, text, value in (
        (one, "a red circle on a white background", 0.5),
        (one, "two red circles", 0.25),  # half of the objects, and half as many as asked
        (two, "a red circle", 0.5),
    ):
        verdict = verify(picture, [text])
        assert not verdict.passed.item()
        assert verdict.score.item() == pytest.approx(value, abs=0.03)
    assert verify(two, ["two red circles"]).passed.all()


def test_empty_and_random_pictures_score_next_to_nothing():
    blank = palette(BACKGROUNDS)[:, :, None, None].expand(-1, -1, 32, 32)
    noise = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert (verify(blank, ["a red circle"] * 3).score == 0).all()
    assert (verify(noise, ["a red circle"] * 20).score < 0.2).all()


def test_an_object_of_two_colors_fails():
    thing = Thing("square", "red", 16.0, 16.0, 9.0)
    picture = draw([Scene("single", "white", (thing,))])
    other = draw([Scene("single", "white", (Thing("square", "green", 16.0, 16.0, 9.0),))])
    picture[..., 16:] = other[..., 16:]
    verdict = verify(picture, ["a red square"])
    assert not verdict.passed.item()
    assert 0.3 < verdict.score.item() < 0.6


def test_components_are_the_connected_ones():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 2:6, 2:6] = mask[0, 6, 6] = True  # touches at a corner only
    mask[0, 10, 1:31] = mask[0, 10:30, 30] = mask[0, 29, 5:31] = True  # a long path
    regions, areas = components(mask)
    assert areas.tolist() == [[30 + 19 + 25, 16, 1, 0]]
    assert torch.equal(regions.sum((-2, -1)), areas)
    assert torch.equal(regions.amax(1).bool(), mask)
    assert regions.shape[1] == MOST
    several = torch.cat([mask, torch.zeros_like(mask), mask.mT, ~mask])
    for one, found, sizes in zip(several, *components(several), strict=True):  # as if alone, whatever lies above it
        alone, area = components(one[None])
        assert torch.equal(found, alone[0])
        assert torch.equal(sizes, area[0])


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_areas_and_centroids_are_those_of_the_drawing(shape):
    x, y, radius = torch.tensor(16.3), torch.tensor(15.8), torch.tensor(9.7)
    drawn = coverage(torch.tensor(shape), x, y, radius)
    assert drawn.sum().item() == pytest.approx(AREAS[shape] * 9.7**2, rel=0.01)
    height = (drawn.sum(1) * (torch.arange(32) + 0.5)).sum() / drawn.sum()
    assert height.item() == pytest.approx(15.8 + SINKS[shape] * 9.7, abs=0.05)


def test_sizes_and_places_are_found_within_a_quarter_of_a_pixel():
    for one, view in zip(SCENES["single"], look(PICTURES["single"]), strict=True):
        (thing,), (seen,) = one.things, view.things
        assert (seen.color, seen.shape, view.background) == (thing.color, thing.shape, one.background)
        for name in ("x", "y", "radius"):
            assert getattr(seen, name) == pytest.approx(getattr(thing, name), abs=0.25)


def test_the_palette_is_far_apart():
    every = torch.cat([palette(COLORS), palette(BACKGROUNDS)])
    apart = torch.cdist(every, every) + 9 * torch.eye(len(every))
    assert apart.min() > 0.25


def test_judging_needs_no_picture():
    (view,) = look(PICTURES["count"][:1])
    strict, score = judge(view, read(FULL["count"][0]))
    assert strict
    assert 0.9 < score <= 1


@pytest.mark.parametrize("bad", [torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 32, 32), torch.zeros(3, 32, 32)])
def test_other_shapes_are_refused(bad):
    with pytest.raises(ValueError, match=r"images must have the shape \(batch, 3, 32, 32\), got"):
        look(bad)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="images must be finite, got NaN or infinity"):
        verify(torch.full((1, 3, 32, 32), torch.nan), ["a red circle"])


def test_every_picture_needs_a_caption():
    with pytest.raises(ValueError, match="every picture needs one caption, got 2 pictures and 1 captions"):
        verify(PICTURES["single"][:2], ["a red circle"])
