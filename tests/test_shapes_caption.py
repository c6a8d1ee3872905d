"""Scenes and captions: one grammar, written and read."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical.shapes.caption import caption, every_request, place_of, read, relation_of, request_of, size_of, write
from empirical.shapes.scene import FAMILIES, OFF_CENTER, RADII, SIZE, Thing, sample, scene

seeds = st.integers(0, 2**32)


@given(st.sampled_from(every_request()))
def test_what_is_written_is_read_back(request):
    assert read(write(request)) == request


@given(st.sampled_from(every_request()))
def test_case_and_spaces_do_not_matter(request):
    assert read("  " + write(request).upper().replace(" ", "  ")) == request


def test_no_two_requests_share_a_caption():
    captions = [write(request) for request in every_request()]
    assert len(set(captions)) == len(captions) == 24 * 3 * 6 * 4 + 24 * 23 * 4 * 4 + 24 * 4


@given(seeds, st.sampled_from(list(FAMILIES)))
def test_a_caption_asks_for_nothing_that_its_scene_lacks(seed, family):
    one = sample(random.Random(seed), family)
    full, said = request_of(one), read(caption(one, random.Random(seed + 1)))
    assert said.family == family
    assert said.relation == full.relation
    assert said.background in (None, full.background)
    for part, whole in zip(said.things, full.things, strict=True):
        assert (part.color, part.shape) == (whole.color, whole.shape)
        assert part.size in (None, whole.size)
        assert part.place in (None, whole.place)


def test_captions_leave_out_half_of_what_they_may():
    ones = [scene(3, index, "single") for index in range(2000)]
    said = [read(caption(one, random.Random(index))) for index, one in enumerate(ones)]
    for named in (
        sum(one.background is not None for one in said),
        sum(one.things[0].size is not None for one in said),
        sum(one.things[0].place is not None for one in said),
    ):
        assert abs(named - 1000) < 4 * (2000 / 4) ** 0.5  # standard errors of a fair coin


def test_families_have_their_shares():
    found = Counter(scene(0, index).family for index in range(4000))
    for family, share in FAMILIES.items():
        assert abs(found[family] - 4000 * share) < 4 * (4000 * share * (1 - share)) ** 0.5


@settings(max_examples=500)  # two of 24 kinds are equal once in 24 draws
@given(seeds)
def test_objects_lie_inside_and_apart(seed):
    one = sample(random.Random(seed))
    for thing in one.things:
        assert min(thing.x, thing.y) - thing.radius >= 0
        assert max(thing.x, thing.y) + thing.radius <= SIZE
    if len(one.things) == 2:
        alike = len({(thing.shape, thing.color) for thing in one.things}) == 1
        assert alike == (one.family == "count")
        first, second = one.things
        apart = max(abs(first.x - second.x), abs(first.y - second.y))
        assert apart >= first.radius + second.radius + 1.5


@given(seeds)
def test_sizes_and_places_are_clear_of_their_limits(seed):
    (thing,) = sample(random.Random(seed), "single").things
    low, high = RADII[size_of(thing)]
    assert low <= thing.radius <= high
    off = max(abs(thing.x - SIZE / 2), abs(thing.y - SIZE / 2))
    assert abs(off - OFF_CENTER) >= 0.99  # a pixel between the last center and the first side


def test_a_scene_does_not_depend_on_what_was_drawn_before():
    assert scene(0, 5) == scene(0, 5)
    assert scene(0, 5) != scene(0, 6) != scene(2, 6)


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [
        (16, 16, "center"),
        (18.5, 13.5, "center"),
        (8, 12, "left"),
        (24, 20, "right"),
        (12, 8, "top"),
        (20, 24, "bottom"),
    ],
)
def test_places_are_where_they_say(x, y, place):
    assert place_of(Thing("circle", "red", x, y, 6)) == place


@pytest.mark.parametrize(
    ("x", "y", "relation"), [(8, 12, "left of"), (24, 20, "right of"), (12, 8, "above"), (20, 24, "below")]
)
def test_relations_are_where_they_say(x, y, relation):
    assert relation_of(Thing("circle", "red", x, y, 6), Thing("cross", "red", 16, 16, 6)) == relation


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat",
        "a circle",
        "a red circle red",
        "two red circle",
        "a red circle left a blue cross",
        "three red circles",
    ],
)
def test_other_captions_are_refused(text):
    with pytest.raises(ValueError, match=r"cannot read the caption .* can be verified"):
        read(text)


def test_a_caption_is_a_string():
    with pytest.raises(TypeError, match="a caption must be a string, got 3"):
        read(3)
