"""What several test modules share: processes, hypothesis strategies, and theory section 2 in many digits."""

import mpmath as mp
import numpy as np
from hypothesis import strategies as st

import gapbound as gb

DIGITS = 420  # gaps down to 1e-300 beside terms of 1e30 are plain differences here


def ve(sigma_T):
    return gb.VE(sigma_T)


def vp(sigma_T):
    """VP started at (nearly) this noise-to-signal ratio."""
    return gb.VP(np.log1p(sigma_T**2) if sigma_T < 1e8 else 2 * np.log(sigma_T), beta="constant")


def flow(sigma_T):
    return gb.FlowMatching(sigma_T / (1 + sigma_T))


FAMILIES = {"VE": ve, "VP": vp, "flow": flow}


def powers(low, high):
    """Positive numbers, uniform in their logarithm, from 10^low to 10^high."""
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


def signed(largest):
    """Numbers of either sign, uniform in magnitude's logarithm over 12 decades below ``largest``, or 0."""
    magnitude = powers(np.log10(largest) - 12, np.log10(largest))
    return st.one_of(st.just(0.0), magnitude, magnitude.map(lambda x: -x))


def processes(low=-3, high=12):
    """VE, VP and flow matching with sigma_T from 10^low to 10^high."""
    return st.builds(lambda family, sigma: family(sigma), st.sampled_from(list(FAMILIES.values())), powers(low, high))


def etas(largest=20.0):
    """0, the usual values, and anything up to ``largest``."""
    return st.one_of(st.sampled_from([0.0, 1e-200, 0.5, 1.0, 1.2, 1.5, 2.0]), st.floats(0, largest))


def windows(low=-4, high=13, largest=20.0):
    """Up to three windows of eta between noise levels 10^low and 10^high."""

    def build(edges, values):
        edges = sorted(set(edges))
        return gb.Windows([(a, b, eta) for a, b, eta in zip(edges[::2], edges[1::2], values, strict=False)])

    return st.builds(build, st.lists(powers(low, high), max_size=6), st.lists(etas(largest), min_size=3, max_size=3))


def exact_phi(v, sigma_0, sigma_T, eta):
    """PHI of theory section 2, an mpf; ``eta`` a number or Windows."""
    v, a, b = mp.mpf(v), mp.mpf(sigma_0), mp.mpf(sigma_T)
    rho = (v + a**2) / (v + b**2)
    if not isinstance(eta, gb.Windows):
        return rho ** ((1 + mp.mpf(eta) ** 2) / 2)
    phi = mp.sqrt(rho)
    for low, high, value in eta.windows:
        low, high = max(a, mp.mpf(low)), min(b, mp.mpf(high))
        if low < high:
            phi *= ((v + low**2) / (v + high**2)) ** (mp.mpf(value) ** 2 / 2)
    return phi


def exact_law(m, v, sigma_0, sigma_T, excess, eta):
    """``(mean, var)`` of one coordinate, mpf; prior N(0, sigma_T^2 + excess)."""
    m, v, phi = mp.mpf(m), mp.mpf(v), exact_phi(v, sigma_0, sigma_T, eta)
    prior = mp.mpf(sigma_T) ** 2 + mp.mpf(excess)
    return m + (0 - m) * phi, v + mp.mpf(sigma_0) ** 2 + (prior - v - mp.mpf(sigma_T) ** 2) * phi**2


def exact_gap(m, v, process, A, c, b, eta, eta_ref):
    """``(gap, sum of the absolute terms)`` for coordinates that do not interact but through A; floats in, mpf out.

    The gap is the plain difference of two expectations in ``DIGITS`` digits. The terms are those of
    sum_i (Phi_ref - Phi)_i {-[A (2 (m - c) - m S)]_i (-m_i) - A_ii (excess - v_i) S_i - b_i m_i}.
    """
    sigma_T, excess = float(process.sigma_T), float(process.prior_excess)
    with mp.workdps(DIGITS):
        d = range(len(m))
        A = [[mp.mpf(float(entry)) if not isinstance(entry, mp.mpf) else entry for entry in row] for row in A]
        m, v, c, b = ([x if isinstance(x, mp.mpf) else mp.mpf(float(x)) for x in xs] for xs in (m, v, c, b))

        def expectation(value):
            laws = [exact_law(m[i], v[i], 0, sigma_T, excess, value) for i in d]
            away = [laws[i][0] - c[i] for i in d]
            curved = sum(A[i][j] * away[i] * away[j] for i in d for j in d)
            return -curved - sum(A[i][i] * laws[i][1] for i in d) + sum(b[i] * laws[i][0] for i in d)

        own, ref = ([exact_phi(v[i], 0, sigma_T, value) for i in d] for value in (eta, eta_ref))
        terms = mp.mpf(0)
        for i in d:
            total = [own[j] + ref[j] for j in d]
            curved = sum(abs(A[i][j]) * (2 * abs(m[j] - c[j]) + abs(m[j]) * total[j]) for j in d)
            bracket = curved * abs(m[i]) + abs(A[i][i] * (excess - v[i])) * total[i] + abs(b[i] * m[i])
            terms += abs(ref[i] - own[i]) * bracket
        return +(expectation(eta_ref) - expectation(eta)), +terms
