"""One-sided Lipschitz constants of scores: Lanczos against full Jacobians, closed forms, and what samples miss."""

import math

import pytest
import torch
from torch import nn

import gapbound as gb
from gapbound.bounds.jacobian import growth_rates, jacobian, lanczos, one_sided_lipschitz
from gapbound.bounds.model_score import as_score, check_rows, check_slopes

EYE = torch.eye(2, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(A):
    return lambda z, sigma: z @ A.T


def network(d, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Linear(d, 16), nn.SiLU(), nn.Linear(16, d)).double().requires_grad_(False)
    return lambda z, sigma: body(z) / sigma


def test_the_constant_of_a_linear_score_is_the_largest_eigenvalue_of_its_symmetric_part():
    A = normal(30, 30)
    exact = float(torch.linalg.eigvalsh((A + A.T) / 2)[-1])
    for method in ("jacobian", "lanczos"):
        found = one_sided_lipschitz(linear(A), normal(7, 30, seed=1), 0.7, method=method, iterations=30)
        assert found.value == pytest.approx(exact, rel=1e-10)
        assert found.rise == pytest.approx(0, abs=1e-10)
        assert found.points == 7
    assert float(torch.linalg.eigvals(A).real.max()) < exact - 0.1  # the unsymmetrised Jacobian has another one


def test_a_rotation_adds_nothing():
    turn = torch.tensor([[0.0, 5.0], [-5.0, 0.0]], dtype=torch.float64)
    found = one_sided_lipschitz(linear(turn - 0.3 * EYE), normal(4, 2), 1.0, method="lanczos")
    assert found.value == pytest.approx(-0.3, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lanczos_and_full_jacobians_agree_on_a_network(dtype):
    body = network(9)
    score = as_score(lambda z, sigma: body(z.double(), sigma).to(z.dtype), 9, dtype)
    z = normal(50, 9).to(dtype)
    full, no_residual = growth_rates(score, z, 0.4, "jacobian")
    ritz, residual = growth_rates(score, z, 0.4, "lanczos")
    torch.testing.assert_close(full, ritz, rtol=1e-5 if dtype == torch.float32 else 1e-10, atol=1e-6)
    assert not no_residual.any()
    assert float(residual.max()) < 1e-5


def test_the_full_jacobian_is_the_difference_quotient():
    score, z, h = as_score(network(4), 4, torch.float64), normal(6, 4), 1e-6
    J = jacobian(score, z, 0.8)
    for i in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[i] = h
        quotient = (score(z + step, 0.8) - score(z - step, 0.8)) / (2 * h)
        torch.testing.assert_close(J[:, :, i], quotient, rtol=1e-6, atol=1e-8)
    assert float((J - J.mT).abs().max()) > 0.01  # not a gradient: rows and columns cannot be confused


def test_an_eigenvalue_lies_within_the_residual_and_the_largest_one_after_enough_iterations():
    A = normal(200, 200)  # the eigenvalues of its symmetric part crowd at their edge: hard for Lanczos
    S = (A + A.T) / 2
    eigenvalues = torch.linalg.eigvalsh(S)
    missed = []
    for iterations in (8, 16, 32):
        generator = torch.Generator().manual_seed(3)
        value, residual = lanczos(lambda v: v @ S, normal(20, 200), iterations, generator)
        assert (value <= eigenvalues[-1] + 1e-9).all()
        assert ((eigenvalues - value[:, None]).abs().amin(-1) <= residual + 1e-9).all()
        missed.append(float((eigenvalues[-1] - value - residual).max()))
    assert missed[0] > 0.1  # a residual alone is no bound on the largest
    assert missed[2] < 0


@pytest.mark.parametrize("rate", [0.0, -0.4])
def test_a_closed_krylov_space_does_not_divide_by_zero(rate):
    found = one_sided_lipschitz(lambda z, sigma: rate * z + 1, normal(5, 60), 1.0, method="lanczos")
    assert found.value == pytest.approx(rate, abs=1e-12)


def test_thousands_of_dimensions_need_no_full_jacobian():
    rates = -torch.linspace(1, 2, 4000, dtype=torch.float64)
    rates[17] = 0.5  # one direction that grows
    found = one_sided_lipschitz(lambda z, sigma: rates * z, normal(3, 4000), 1.0)
    assert found.value == pytest.approx(0.5, abs=1e-6)
    assert found.residual < 1e-3


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_two_modes_reach_their_closed_form_between_them_and_samples_of_the_modes_do_not(sigma):
    R, v = 2.0, 0.2
    law = gb.GaussianMixture([0.5, 0.5], [[-R, 0.0], [R, 0.0]], v)
    closed = R**2 / (v + sigma**2) ** 2 - 1 / (v + sigma**2)
    line = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert one_sided_lipschitz(law, line, sigma).value == pytest.approx(closed, rel=1e-9)
    at_modes = torch.tensor([[-R, 0.0], [R, 0.0]], dtype=torch.float64) + 0.1 * normal(2, 2)
    assert one_sided_lipschitz(law, at_modes, sigma).value < closed - 1  # a supremum over samples is not a supremum


def test_the_inequality_holds_on_segments_with_the_constant_of_their_points():
    body = network(3, seed=5)
    score = as_score(body, 3, torch.float64)
    x, y = 3 * normal(40, 3, seed=1), 3 * normal(40, 3, seed=2)
    shares = torch.linspace(0, 1, 201, dtype=torch.float64)
    rates = torch.stack([growth_rates(score, x + share * (y - x), 0.6)[0] for share in shares])
    inner = ((score(x, 0.6) - score(y, 0.6)) * (x - y)).sum(-1) / ((x - y) ** 2).sum(-1)
    assert (inner <= rates.max(0).values + 1e-9).all()
    assert (inner >= rates.min(0).values - 5 * float(rates.max() - rates.min())).all()
    assert (inner > rates.min(0).values).any()  # the smallest would not do


def test_the_rise_is_what_half_of_the_points_miss():
    law = gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], 0.3)
    z = torch.tensor([[-3.0], [0.0], [3.0], [2.0]], dtype=torch.float64)  # the second one is in no half of even rows
    found = one_sided_lipschitz(law, z, 0.5)
    half = one_sided_lipschitz(law, z[::2], 0.5)
    assert found.value == one_sided_lipschitz(law, z[1:], 0.5).value
    assert found.rise == pytest.approx(found.value - half.value, rel=1e-12)
    assert found.rise > 0.1


def test_blocks_of_rows_change_nothing(monkeypatch):
    from gapbound.bounds import jacobian as module

    z, body = normal(30, 5), network(5)
    whole = one_sided_lipschitz(body, z, 0.5).value
    monkeypatch.setattr(module, "ELEMENTS", 60)
    assert one_sided_lipschitz(body, z, 0.5).value == pytest.approx(whole, rel=1e-12)


def test_wrong_questions_are_refused():
    z = normal(4, 2)
    with pytest.raises(TypeError, match="z must be a torch tensor"):
        one_sided_lipschitz(linear(EYE), z.numpy(), 1.0)
    with pytest.raises(ValueError, match="at least two points of shape"):
        one_sided_lipschitz(linear(EYE), z[:1], 1.0)
    with pytest.raises(ValueError, match="unknown method 'power'; known: auto, jacobian, lanczos"):
        one_sided_lipschitz(linear(EYE), z, 1.0, method="power")
    with pytest.raises(ValueError, match="sigma must be positive"):
        one_sided_lipschitz(linear(EYE), z, 0.0)
    with pytest.raises(ValueError, match="sigma must be one number"):
        one_sided_lipschitz(linear(EYE), z, [1.0, 2.0])
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        one_sided_lipschitz(linear(EYE), z, 1.0, iterations=0)
    with pytest.raises(TypeError, match="score_model must be a callable"):
        one_sided_lipschitz(3.0, z, 1.0)
    with pytest.raises(ValueError, match="the model has dimension 1, the target 2"):
        one_sided_lipschitz(gb.Gaussian(0.0, 1.0), z, 1.0)
    with pytest.raises(ValueError, match=r"must return a tensor of z's shape \(4, 2\), got \(4,\)"):
        one_sided_lipschitz(lambda z, sigma: z.sum(-1), z, 1.0)
    with pytest.raises(ValueError, match="one model at a time, got batch shape"):
        one_sided_lipschitz(gb.Gaussian([[0.0, 0.0]], 1.0), z, 1.0)
    with pytest.raises(ValueError, match=r"dtype must be torch\.float32 or torch\.float64"):
        one_sided_lipschitz(linear(EYE.half()), z.half(), 1.0)


@pytest.mark.parametrize("method", ["jacobian", "lanczos"])
def test_a_derivative_that_is_not_finite_is_refused(method):
    z = normal(4, 2)
    z[2] = 0.0
    with pytest.raises(ValueError, match=r"derivative is not finite at sigma=1, z=\[0.0, 0.0\]"):
        one_sided_lipschitz(lambda z, sigma: z.abs().sqrt(), z, 1.0, method=method)


def test_hidden_derivatives_and_mixed_rows_are_seen():
    z = normal(16, 2)
    check_slopes(as_score(network(2), 2, torch.float64), z, 1.0)
    check_rows(as_score(network(2), 2, torch.float64), z, 1.0)

    def detached(z, sigma):
        return -z.detach()

    def standardised(z, sigma):
        return -(z - z.mean(0)) / (z.std(0, correction=0) + 1)

    with pytest.raises(ValueError, match=r"must be differentiable in z: no torch\.no_grad, detach or NumPy"):
        check_slopes(as_score(detached, 2, torch.float64), z, 1.0)
    with pytest.raises(ValueError, match=r"changes with the other rows or from call to call .*call model.eval"):
        check_rows(as_score(standardised, 2, torch.float64), z, 1.0)
    dropout = nn.Dropout(0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with pytest.raises(ValueError, match="without dropout"):
            check_rows(as_score(lambda z, sigma: dropout(-z), 2, torch.float64), z, 1.0)


def test_single_precision_passes_the_check_of_slopes():
    law = gb.GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], 0.3)
    for sigma in (0.05, 1.0, 1000.0):
        z = (sigma * normal(16, 2)).float()
        check_slopes(as_score(law, 2), z, sigma)
    assert math.isfinite(one_sided_lipschitz(law, z, 1000.0).value)
