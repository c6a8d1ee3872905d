"""The window: where it is when, and which steps it ever reaches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empirical.training.window import POSITIONS, Window


def test_a_progressive_window_moves_towards_the_data_and_rolls_back():
    window = Window(steps=10, width=3, stride=2, interval=5)
    assert window.last == 6  # steps 6, 7, 8; the last step, 9, is in no window
    assert [window.start(5 * move) for move in range(6)] == [0, 2, 4, 6, 0, 2]
    assert {window.start(i) for i in range(5)} == {0}
    assert window.profile(5, 1.2) == [0, 0, 1.2, 1.2, 1.2, 0, 0, 0, 0, 0]


def test_a_stride_that_overshoots_is_cut_short_at_the_end():
    window = Window(steps=9, width=3, stride=4, interval=1)
    assert [window.start(i) for i in range(4)] == [0, 4, 5, 0]


def reached(window, iterations):
    """The steps that are inside at all."""
    return sorted({k for i in range(iterations) for k, eta in enumerate(window.profile(i, 1.0)) if eta})


def test_the_published_settings_leave_late_steps_untrained():
    """25 steps, w = 4, stride 1, a move every 25 iterations, 300 iterations."""
    assert reached(Window(25, 4), 300) == list(range(15))
    assert reached(Window(25, 4), 525) == list(range(24))


def test_a_random_window_is_seeded_and_stays_for_an_interval():
    window = Window(steps=25, width=4, interval=7, position="random", seed=3)
    starts = [window.start(i) for i in range(700)]
    assert all(starts[i] == starts[i - i % 7] for i in range(700))
    assert starts == [Window(steps=25, width=4, interval=7, position="random", seed=3).start(i) for i in range(700)]
    assert set(starts) == set(range(21))
    assert starts != [Window(steps=25, width=4, interval=7, position="random", seed=4).start(i) for i in range(700)]


@given(st.integers(2, 40), st.data())
def test_every_window_fits_before_the_last_step(steps, data):
    width = data.draw(st.integers(1, steps - 1))
    first = data.draw(st.integers(0, steps - 1 - width))
    window = Window(
        steps, width, first, data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)),
        data.draw(st.sampled_from(POSITIONS)),
    )  # fmt: skip
    profile = window.profile(data.draw(st.integers(0, 500)), 0.7)
    inside = [k for k, eta in enumerate(profile) if eta]
    assert len(profile) == steps
    assert inside == list(range(inside[0], inside[0] + width))
    assert first <= inside[0]
    assert inside[-1] < steps - 1


def test_a_progressive_window_reaches_every_step_that_can_be_trained():
    for stride in (1, 2, 3, 4):
        assert reached(Window(12, 4, stride=stride, interval=1), 12) == list(range(11))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 10}, "a window of 10 does not fit: 10 steps have 9 that can be trained"),
        ({"width": 3, "first": 7}, "can start at 0 to 6, got first = 7"),
        ({"width": 0}, "width"),
        ({"width": 2, "stride": 0}, "stride"),
        ({"width": 2, "interval": 0}, "interval"),
        ({"width": 2, "position": "left"}, "position"),
    ],
)
def test_a_window_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Window(10, **settings)
