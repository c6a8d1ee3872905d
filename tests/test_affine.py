"""Affine scores and guidance: theory 7, closed forms in many digits, moment equations in log sigma, bad input."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.stats import ortho_group
from strategies import FAMILIES, etas, powers, processes, signed, windows

import gapbound as gb

UNCONDITIONAL, CONDITIONAL = gb.Gaussian(0.0, 1.0), gb.Gaussian(1.0, 0.5)
LOOSE, TIGHT = gb.Gaussian([0.1, -0.3], [[1.2, 0.4], [0.4, 0.9]]), gb.Gaussian([0.8, 0.5], [[0.5, -0.2], [-0.2, 0.6]])
FAR = gb.VP(math.log1p(1e6), "constant")  # sigma_T = 1000
WINDOW = gb.Windows([(0.2, 0.7, 1.6), (1.0, 1.4, 0.5)])


@pytest.mark.parametrize(
    ("scale", "eta", "mean", "variance", "digits"),
    [
        (3.0, 0.0, 2.00, 0.125, (0.005, 0.0005)),
        (3.0, 1.0, 1.75, 0.194, (0.005, 0.0005)),
        (7.5, 0.0, 2.40, 0.0055, (0.005, 0.00005)),
        (7.5, 1.0, 1.99, 0.071, (0.005, 0.0005)),
    ],
)
def test_laws_of_the_theory(scale, eta, mean, variance, digits):
    law = gb.terminal_law(gb.guided(UNCONDITIONAL, CONDITIONAL, scale), FAR, eta)
    assert law.mean[0] == pytest.approx(mean, abs=digits[0])
    assert law.cov[0] == pytest.approx(variance, abs=digits[1])


@pytest.mark.parametrize(("scale", "mean", "variance"), [(3.0, 1.5, 0.25), (7.5, 1.76, 0.118)])
def test_neither_sampler_draws_from_the_tilted_density(scale, mean, variance):
    # density p_u (p_c / p_u)^w: precisions and precision-weighted means extrapolate
    precision = 1 + scale * (1 / 0.5 - 1)
    assert (scale / 0.5 / precision, 1 / precision) == (
        pytest.approx(mean, abs=0.005),
        pytest.approx(variance, abs=5e-4),
    )
    for eta in (0.0, 1.0):
        law = gb.terminal_law(gb.guided(UNCONDITIONAL, CONDITIONAL, scale), FAR, eta)
        assert law.mean[0] - mean > 0.2
        assert variance - law.cov[0] > 0.04


def test_large_eta_draws_from_the_tilted_density():
    law = gb.terminal_law(gb.guided(UNCONDITIONAL, CONDITIONAL, 3.0), FAR, np.array([10.0, 100.0, 1e4]))
    np.testing.assert_allclose(law.mean[:, 0], 1.5, atol=5e-3)
    np.testing.assert_allclose(law.cov[1:, 0], 0.25, atol=1e-4)
    assert (np.diff(np.abs(law.mean[:, 0] - 1.5)) < 0).all()


def exact_guided(unconditional, conditional, scale, sigma_0, process, eta):
    """``(mean, var)`` for d = 1 in 30 digits, from the closed form of what survives from tau to the end."""
    with mp.workdps(30):
        (mu, vu), (mc, vc) = (
            (mp.mpf(float(law.mean[0])), mp.mpf(float(law.cov[0]))) for law in (unconditional, conditional)
        )
        w, low, high = mp.mpf(scale), mp.mpf(sigma_0) ** 2, mp.mpf(float(process.sigma_T)) ** 2
        eta2 = mp.mpf(eta) ** 2
        c = (1 + eta2) / 2

        def psi(tau):
            return ((vu + low) / (vu + tau)) ** (c * (1 - w)) * ((vc + low) / (vc + tau)) ** (c * w)

        def integral(f):  # in y = log(tau + smaller variance), panel by panel
            v = min(vu, vc)
            edges = mp.linspace(mp.log(low + v), mp.log(high + v), 2 + int(mp.log((high + v) / (low + v)) * (1 + c)))
            return mp.quad(lambda y: f(mp.exp(y) - v) * mp.exp(y), edges, maxdegree=5)

        mean = integral(lambda t: psi(t) * c * ((1 - w) * mu / (vu + t) + w * mc / (vc + t)))
        noise = eta2 * integral(lambda t: psi(t) ** 2) if eta else 0
        return mean, noise + psi(high) ** 2 * (high + mp.mpf(float(process.prior_excess)))


@pytest.mark.parametrize(
    ("conditional", "scale", "process", "eta"),
    [
        (CONDITIONAL, 3.0, gb.VE(2.0), 0.0),
        (CONDITIONAL, 3.0, gb.VP(1.7), 1.0),
        (CONDITIONAL, 7.5, gb.VE(1e6), 0.7),
        (CONDITIONAL, -1.5, gb.FlowMatching(0.9), 1.3),
        (CONDITIONAL, 50.0, gb.VE(30.0), 1.0),
        (CONDITIONAL, 7.5, gb.VE(5.0), 6.0),
        (gb.Gaussian(2.0, 1.3), 1.7, gb.VE(40.0), 0.8),
        (gb.Gaussian(-1e3, 1e-4), 4.0, gb.VP(2.0), 1.0),
        (gb.Gaussian(0.3, 40.0), 1.05, gb.VE(1e3), 0.5),
        (gb.Gaussian(0.3, 1e-3), 2.0, gb.VE(1e-2), 1.0),
    ],
    ids=str,
)
def test_guided_laws_are_accurate_to_1e_13(conditional, scale, process, eta):
    for sigma_0 in (0.0, float(process.sigma_T) / 7):
        t_min = {gb.VE: sigma_0}.get(type(process), 0.0)
        law = gb.terminal_law(gb.guided(UNCONDITIONAL, conditional, scale), process, eta, t_min)
        mean, var = exact_guided(UNCONDITIONAL, conditional, scale, float(process.sigma(t_min)), process, eta)
        assert abs(mp.mpf(float(law.mean[0])) - mean) <= 1e-13 * abs(mean) * max(1, abs(scale))
        assert abs(mp.mpf(float(law.cov[0])) - var) <= 1e-13 * var * max(1, abs(scale))


def law_by_moment_equations(model, process, eta, sigma_0=0.0, steps_from=None):
    """Mean and covariance from d/dlog sigma of z, by an implicit-free solver, restarted where eta jumps."""
    d, start = model.dim, float(process.sigma_T)
    end = sigma_0 if sigma_0 else 1e-9
    jumps = [edge for low, high, _ in eta.windows for edge in (low, high)] if isinstance(eta, gb.Windows) else []
    cuts = [start, *sorted((e for e in jumps if end < e < start), reverse=True), end]
    state = np.concatenate([np.zeros(d), float(process.prior_variance) * np.eye(d).ravel()])
    for high, low in itertools.pairwise(cuts):
        value = float(eta(math.sqrt(low * high))) if isinstance(eta, gb.Windows) else eta

        def slope(s, state, value=value):
            sigma, m, V = math.exp(s), state[:d], state[d:].reshape(d, d)
            # the score's mean response, from the two laws themselves
            gain, offset = np.zeros((d, d)), np.zeros(d)
            for law, weight in zip(model.laws, (1 - float(model.scale), float(model.scale)), strict=True):
                inverse = np.linalg.inv(law.matrix + sigma**2 * np.eye(d))
                gain, offset = gain + weight * inverse, offset + weight * inverse @ law.mean
            c, dtau = (1 + value**2) / 2, 2 * sigma**2
            dV = c * (gain @ V + V @ gain.T) - value**2 * np.eye(d)
            return dtau * np.concatenate([c * (gain @ m - offset), dV.ravel()])

        span = (math.log(high), math.log(low))
        state = solve_ivp(slope, span, state, method="LSODA", rtol=1e-12, atol=1e-14).y[:, -1]
    return state[:d], state[d:].reshape(d, d)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 2.0, WINDOW], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [2.0, -0.5])
def test_covariances_that_do_not_commute_follow_their_moment_equations(scale, family, eta):
    model, process = gb.guided(LOOSE, TIGHT, scale), FAMILIES[family](3.0)
    law = gb.terminal_law(model, process, eta)
    assert model.diagonalised()[1] is None
    mean, cov = law_by_moment_equations(model, process, eta)
    np.testing.assert_allclose(law.mean, mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(law.cov, cov, rtol=1e-8, atol=1e-9)


def test_the_moment_equations_stop_where_t_min_says():
    model, process = gb.guided(LOOSE, TIGHT, 2.0), gb.VE(3.0)
    mean, cov = law_by_moment_equations(model, process, WINDOW, sigma_0=0.4)
    law = gb.terminal_law(model, process, WINDOW, t_min=0.4)
    np.testing.assert_allclose(law.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(law.cov, cov, rtol=1e-8)
    assert np.abs(gb.terminal_law(model, process, 1.0, t_min=0.4).cov - cov).max() > 1e-2


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0, 20.0, WINDOW], ids=str)
@pytest.mark.parametrize(
    "process", [gb.VE(3.0), gb.VE(1e12), gb.VP(1.3), gb.VP(30.0), gb.FlowMatching(0.8), gb.FlowMatching()], ids=str
)
@pytest.mark.parametrize("laws", [(UNCONDITIONAL, CONDITIONAL), (LOOSE, TIGHT)], ids=["d = 1", "d = 2"])
@pytest.mark.parametrize("which", [0, 1])
def test_scale_0_is_the_unconditional_and_scale_1_the_conditional_law(which, laws, process, eta):
    law = gb.terminal_law(gb.guided(*laws, float(which)), process, eta)
    exact = gb.terminal_law(laws[which], process, eta)
    np.testing.assert_allclose(law.mean, exact.mean, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(law.cov, exact.cov, rtol=2e-13, atol=1e-14)


@settings(max_examples=60)
@given(
    m=signed(1e6),
    v=powers(-12, 12),
    process=processes(),
    eta=st.one_of(etas(), windows(), st.sampled_from([1e3, 1e50])),
)
def test_a_law_guided_by_itself_is_itself(m, v, process, eta):
    law, target = gb.terminal_law(gb.guided(gb.Gaussian(m, v), gb.Gaussian(m, v), 3.7), process, eta), gb.Gaussian(m, v)
    exact = gb.terminal_law(target, process, eta)
    np.testing.assert_allclose(law.mean, exact.mean, rtol=1e-11, atol=1e-14 * abs(m))
    np.testing.assert_allclose(law.cov, exact.cov, rtol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 1.0, WINDOW], ids=str)
def test_the_unit_of_length_does_not_matter(eta):
    # tiny, usual and huge data, noise scaled with them
    scaled_window = lambda k: gb.Windows([(k * a, k * b, e) for a, b, e in eta.windows]) if eta is WINDOW else eta  # noqa: E731
    one = gb.terminal_law(gb.guided(LOOSE, TIGHT, 2.0), gb.VE(3.0), eta)
    for k in (1e-9, 1e9):
        model = gb.guided(
            gb.Gaussian(k * LOOSE.mean, k**2 * LOOSE.cov), gb.Gaussian(k * TIGHT.mean, k**2 * TIGHT.cov), 2.0
        )
        law = gb.terminal_law(model, gb.VE(3.0 * k), scaled_window(k))
        np.testing.assert_allclose(law.mean / k, one.mean, rtol=1e-12)
        np.testing.assert_allclose(law.cov / k**2, one.cov, rtol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.8, WINDOW], ids=str)
def test_commuting_covariances_are_the_rotation_of_the_diagonal_case(eta):
    rng, d = np.random.default_rng(4), 3
    Q = ortho_group.rvs(d, random_state=rng)
    means, variances = rng.normal(size=(2, d)), np.array([[1.0, 1.0, 0.3], [0.5, 0.2, 0.2]])  # eigenvalues repeat
    full = [
        gb.Gaussian(Q @ m, (Q * v) @ Q.T / 2 + ((Q * v) @ Q.T).T / 2) for m, v in zip(means, variances, strict=True)
    ]
    plain = [gb.Gaussian(m, v) for m, v in zip(means, variances, strict=True)]
    assert gb.guided(*full, 2.5).diagonalised()[1] is not None
    law = gb.terminal_law(gb.guided(*full, 2.5), gb.VP(1.4), eta)
    diagonal = gb.terminal_law(gb.guided(*plain, 2.5), gb.VP(1.4), eta)
    np.testing.assert_allclose(law.mean, Q @ diagonal.mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(law.cov, (Q * diagonal.cov) @ Q.T, rtol=1e-12, atol=1e-13)


def test_the_matrix_route_agrees_with_the_diagonal_route():
    # two coordinates that do not interact, beside a third and fourth that do not commute
    def block(law, extra):
        cov = np.zeros((4, 4))
        cov[:2, :2], cov[2:, 2:] = law.matrix, extra.matrix
        return gb.Gaussian(np.concatenate([law.mean, extra.mean]), cov)

    plain = gb.Gaussian([0.0, 0.3], [1.0, 2.0]), gb.Gaussian([1.0, -0.2], [0.5, 0.7])
    model = gb.guided(block(plain[0], LOOSE), block(plain[1], TIGHT), 2.5)
    for eta, process in itertools.product([0.0, 1.0, 5.0], [gb.VE(2.0), gb.VP(4.0), gb.FlowMatching()]):
        law, diagonal = (gb.terminal_law(m, process, eta) for m in (model, gb.guided(*plain, 2.5)))
        np.testing.assert_allclose(law.mean[:2], diagonal.mean, rtol=1e-13)
        np.testing.assert_allclose(law.cov[:2, :2], np.diag(diagonal.cov), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("eta", [0.0, 1.0, gb.Windows([(0.4, math.inf, 0.9)])], ids=str)
@pytest.mark.parametrize("laws", [(UNCONDITIONAL, CONDITIONAL), (LOOSE, TIGHT)], ids=["d = 1", "d = 2"])
def test_flow_from_t_1_is_the_limit_of_every_process(laws, eta):
    model = gb.guided(*laws, 2.5)
    limit = gb.terminal_law(model, gb.FlowMatching(), eta)
    for process in (gb.VE(1e9), gb.VP(41.0, "constant"), gb.FlowMatching(1 - 1e-9), gb.VP(30.0), gb.VP(50.0)):
        law = gb.terminal_law(model, process, eta)
        np.testing.assert_allclose(law.mean, limit.mean, rtol=1e-7)
        np.testing.assert_allclose(law.cov, limit.cov, rtol=1e-7)
    finer = [gb.discrete_law(model, gb.FlowMatching(), "gddim", eta, n) for n in (1000, 2000)]
    np.testing.assert_allclose(2 * finer[1].mean - finer[0].mean, limit.mean, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(2 * finer[1].cov - finer[0].cov, limit.cov, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("laws", [(UNCONDITIONAL, CONDITIONAL), (LOOSE, TIGHT)], ids=["d = 1", "d = 2"])
def test_chains_converge_to_the_continuous_law(laws):
    model, process = gb.guided(*laws, 2.5), gb.VE(3.0)
    exact = gb.terminal_law(model, process, 1.0, 0.05)
    errors = []
    for steps in (200, 400, 800):
        law = gb.discrete_law(model, process, "stochastic-heun", 1.0, steps, t_min=0.05)
        errors.append(np.abs(law.cov - exact.cov).max() + np.abs(law.mean - exact.mean).max())
    assert errors[2] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("eta_shape", [(), (3,)])
@pytest.mark.parametrize("T_shape", [(), (2, 1)])
@pytest.mark.parametrize("scale_shape", [(), (3,)])
@pytest.mark.parametrize("full", [False, True])
def test_batches_are_the_laws_of_each(full, scale_shape, T_shape, eta_shape):
    laws = (LOOSE, TIGHT) if full else (gb.Gaussian([0.1, -0.3], [1.2, 0.9]), gb.Gaussian([0.8, 0.5], [0.5, 0.6]))
    scale, T, eta = np.linspace(0.5, 2.5, 3), np.array([[2.0], [5.0]]), np.array([0.0, 0.7, 1.5])
    scale, T, eta = (
        values if shape else values.flat[-1] for values, shape in ((scale, scale_shape), (T, T_shape), (eta, eta_shape))
    )
    law = gb.terminal_law(gb.guided(*laws, scale), gb.VE(T), eta)
    common = np.broadcast_shapes(scale_shape, T_shape, eta_shape)
    assert law.batch_shape == common
    assert law.cov.shape == (*common, 2, 2) if full else (*common, 2)
    scale, T, eta = (np.broadcast_to(values, common) for values in (scale, T, eta))
    for i in np.ndindex(*common):
        single = gb.terminal_law(gb.guided(*laws, scale[i]), gb.VE(T[i]), eta[i])
        np.testing.assert_allclose(law.mean[i], single.mean, rtol=1e-12)
        np.testing.assert_allclose(law.cov[i], single.cov, rtol=1e-12, atol=1e-15)


def test_batches_of_laws_broadcast_with_the_scale():
    many = gb.Gaussian(np.array([[0.0], [0.5], [1.0]]), 0.5)
    law = gb.terminal_law(gb.guided(UNCONDITIONAL, many, np.array([[1.5], [3.0]])), gb.VE(3.0), 1.0)
    assert law.batch_shape == (2, 3)
    single = gb.terminal_law(gb.guided(UNCONDITIONAL, gb.Gaussian(1.0, 0.5), 3.0), gb.VE(3.0), 1.0)
    np.testing.assert_allclose(law.mean[1, 2], single.mean, rtol=1e-13)
    model = gb.guided(UNCONDITIONAL, CONDITIONAL, 3.0)
    mixed = gb.terminal_law(model, gb.FlowMatching([0.5, 1.0]), 1.0)
    np.testing.assert_allclose(mixed.mean[1], gb.terminal_law(model, gb.FlowMatching(), 1.0).mean, rtol=1e-13)


@pytest.mark.parametrize(
    "model", [gb.guided(UNCONDITIONAL, CONDITIONAL, 3.0), gb.guided(LOOSE, TIGHT, 3.0)], ids=["d = 1", "d = 2"]
)
def test_score_is_the_extrapolation_of_both_scores_in_numpy_and_torch(model):
    z, sigma = np.random.default_rng(0).normal(size=(5, model.dim)), 0.7
    unconditional, conditional = (law.score(z, sigma) for law in model.laws)
    expected = unconditional + 3.0 * (conditional - unconditional)
    np.testing.assert_allclose(model.score(z, sigma), expected, rtol=1e-12, atol=1e-13)
    tensor = model.score(torch.tensor(z), sigma)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "model", [gb.guided(UNCONDITIONAL, CONDITIONAL, 3.0), gb.guided(LOOSE, TIGHT, 3.0)], ids=["d = 1", "d = 2"]
)
def test_the_denoiser_keeps_one_minus_sigma_squared_gain(model):
    for sigma in (0.0, 0.3, 2.0):
        plain = gb.AffineScore.kept(model, sigma)
        np.testing.assert_allclose(model.kept(sigma), plain, rtol=1e-12, atol=1e-13)
    assert model.kept(np.array([0.1, 0.2])).shape == (2, *plain.shape)
    far = model.kept(1e10)  # where 1 - sigma^2 G has no digit left
    covs = [law.cov for law in model.laws]
    np.testing.assert_allclose(far * 1e20, -2 * covs[0] + 3 * covs[1], rtol=1e-12, atol=1e-15)


class Spiral(gb.AffineScore):
    """A gain that is not symmetric: what no density has, and every learned score may have."""

    dim, batch_shape, is_diagonal, variance_range = 2, (), False, (0.5, 0.5)
    pure_noise_mean = np.array([0.4, -0.1])
    turn = np.array([[1.0, 0.4], [-0.4, 1.0]])

    def gain(self, sigma):
        """The turn over 0.5 + sigma^2."""
        return self.turn / (0.5 + np.asarray(sigma, dtype=float)[..., None, None] ** 2)

    def offset(self, sigma):
        """The gain at the mean."""
        return (self.gain(sigma) @ self.pure_noise_mean[:, None])[..., 0]


@pytest.mark.parametrize("eta", [0.0, 1.0, 1.7])
def test_any_affine_score_is_served_whatever_its_gain(eta):
    model, process, c = Spiral(), gb.VE(2.0), (1 + eta**2) / 2

    def slope(tau, state):
        G, m, V = Spiral.turn / (0.5 + tau), state[:2], state[2:].reshape(2, 2)
        return np.concatenate(
            [c * G @ (m - model.pure_noise_mean), (c * (G @ V + V @ G.T) - eta**2 * np.eye(2)).ravel()]
        )

    start = np.concatenate([np.zeros(2), 4 * np.eye(2).ravel()])
    end = solve_ivp(slope, (4.0, 0.0), start, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    law = gb.terminal_law(model, process, eta)
    np.testing.assert_allclose(law.mean, end[:2], rtol=1e-10)
    np.testing.assert_allclose(law.cov.ravel(), end[2:], rtol=1e-10, atol=1e-12)
    chain = gb.discrete_law(model, process, "stochastic-heun", eta, 2000)
    np.testing.assert_allclose(chain.mean, law.mean, atol=5e-3)
    np.testing.assert_allclose(chain.cov, law.cov, atol=5e-3)


@settings(max_examples=60)
@given(
    scale=st.one_of(st.floats(-5, 100), st.sampled_from([-1e3, 1e3, 1e6])),
    m=signed(1e6),
    v=powers(-12, 12),
    process=processes(-3, 12),
    eta=st.one_of(etas(), windows(), st.just(1e50)),
)
def test_extreme_guidance_is_finite_or_refused(scale, m, v, process, eta):
    try:
        law = gb.terminal_law(gb.guided(UNCONDITIONAL, gb.Gaussian(m, v), scale), process, eta)
    except ValueError as error:
        message = str(error)
    else:
        assert np.isfinite(law.mean).all()
        assert np.isfinite(law.cov).all()
        assert (law.cov > 0).all()
        return
    assert "out of floating point; take w nearer to 1 or a smaller eta" in message


def test_moderate_guidance_is_never_refused():
    scale, eta = np.linspace(-1, 10, 12)[:, None], np.array([0.0, 1.0, 3.0])
    for process in (gb.VE(1e-3), gb.VE(1e12), gb.VP(20.0), gb.FlowMatching()):
        law = gb.terminal_law(gb.guided(UNCONDITIONAL, CONDITIONAL, scale), process, eta)
        assert (law.cov > 0).all()


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: gb.guided(1.0, CONDITIONAL, 2.0), TypeError, "unconditional must be a Gaussian, got float"),
        (
            lambda: gb.guided(UNCONDITIONAL, gb.GaussianMixture([1.0], [[0.0]], [[1.0]]), 2.0),
            TypeError,
            "conditional must be a Gaussian, got GaussianMixture",
        ),
        (lambda: gb.guided(UNCONDITIONAL, TIGHT, 2.0), ValueError, "must have the same dimension, got 1 and 2"),
        (lambda: gb.guided(UNCONDITIONAL, CONDITIONAL, math.nan), ValueError, "scale must be finite, got nan"),
        (
            lambda: gb.guided(UNCONDITIONAL, CONDITIONAL, [1.0, math.inf]),
            ValueError,
            r"scale must be finite, got inf at",
        ),
        (lambda: gb.guided(UNCONDITIONAL, CONDITIONAL, "strong"), TypeError, "scale must be a real number"),
        (
            lambda: gb.guided(gb.Gaussian([[0.0], [1.0]], 1.0), CONDITIONAL, [1.0, 2.0, 3.0]),
            ValueError,
            r"the batches and scale do not broadcast: shapes \(2,\) and \(\) and \(3,\)",
        ),
        (
            lambda: gb.terminal_law(gb.guided(UNCONDITIONAL, CONDITIONAL, [1.0, 2.0]), gb.VE([1.0, 2.0, 3.0]), 1.0),
            ValueError,
            r"target, T and eta do not broadcast: shapes \(2,\) and \(3,\)",
        ),
        (
            lambda: gb.terminal_law(gb.guided(UNCONDITIONAL, CONDITIONAL, 1e6), gb.VE(10.0), 0.0),
            ValueError,
            "out of floating point; take w nearer to 1 or a smaller eta",
        ),
        (lambda: gb.guided(UNCONDITIONAL, CONDITIONAL, 2.0).score(np.zeros((3, 2))), ValueError, "must have 1 entries"),
    ],
)
def test_bad_input_is_refused_with_the_value_met(make, error, match):
    with pytest.raises(error, match=match):
        make()
