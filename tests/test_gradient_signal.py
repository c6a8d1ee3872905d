"""The signal of a gradient is found where it is known, and there is none where there is none."""

import pytest
import torch

from analysis import gradient_signal as module
from analysis.gradient_signal import signal


def drawn(strength, n=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return strength + torch.randn(n, 50, generator=generator)


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0])
def test_the_ratio_of_known_gradients_is_within_its_error(strength):
    found = signal(drawn(strength))
    expected = strength**2 / (1 + strength**2)  # noise is the whole mean square
    assert abs(found.ratio - expected) < 4 * found.error
    assert found.norm == pytest.approx((50 * (1 + strength**2)) ** 0.5, rel=0.02)
    if strength == 0.1:
        assert found.ratio > 5 * found.error  # it would be seen


def test_the_error_is_the_scatter_of_repetitions():
    found = [signal(drawn(0.3, n=40, seed=seed)) for seed in range(200)]
    scatter = torch.tensor([one.ratio for one in found]).std()
    assert float(torch.tensor([one.error for one in found]).mean()) == pytest.approx(float(scatter), rel=0.2)


def test_two_epochs_are_refused():
    with pytest.raises(ValueError, match="epochs must be at least 3, got 2"):
        signal(drawn(0.0, n=2))


def test_the_command_prints_every_step_and_combination(capsys):
    module.main(epochs=3)
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("step ")]) == 9
    assert sum(line.startswith("all ") for line in lines) == 4
    norms = {line.split(":")[0]: float(line.split("norm ")[1].split(",")[0]) for line in lines}
    last = next(value for name, value in norms.items() if name.startswith("step 8"))
    assert last > 0.9 * norms["all steps, weighed by std^0"]  # the step of least noise is nearly all of it
    assert norms["all steps, weighed by std^2"] < 0.1 * last
