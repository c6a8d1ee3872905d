"""Time is added up where it is spent: in networks, in rewards, and the rest."""

import time

import pytest
import torch

from empirical.meter.clock import Clock


class Slow(torch.nn.Module):
    """A network that takes its time."""

    def forward(self, seconds):
        """Sleep, and no more."""
        time.sleep(seconds)
        return seconds


def test_every_forward_pass_counts_and_what_is_between_is_overhead():
    clock, network = Clock(), Slow()
    with clock.watch([network]):
        for _ in range(3):
            network(0.02)
        time.sleep(0.03)
        with clock.scoring():
            time.sleep(0.02)
    network(0.02)  # no longer watched
    assert clock.networks == pytest.approx(0.06, abs=0.02)
    assert clock.rewards == pytest.approx(0.02, abs=0.015)
    assert clock.total == pytest.approx(0.11, abs=0.03)
    assert clock.overhead == pytest.approx((clock.total - clock.networks - clock.rewards) / clock.networks)
    assert not network._forward_hooks
    assert not network._forward_pre_hooks


def test_before_anything_ran_there_is_no_ratio():
    assert Clock().record() == {"seconds": 0.0, "networks": 0.0, "rewards": 0.0, "overhead_ratio": None}
