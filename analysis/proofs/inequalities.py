"""Inequalities as the identities that prove them (a difference written as a square), curvature, mixtures."""

from __future__ import annotations

import sympy as sp

from analysis.proofs.registry import Expr, Residuals, check, t, tau, v, y, z


@check
def weak_duality_is_a_square(slip: Expr = 1) -> Residuals:
    """a^2/(4 lam) - (a sqrt(g) - lam g) = lam (sqrt(g) - a/(2 lam))^2, peak at a^2 M'/t^2 for lam = t/(2 sqrt(M'))."""
    a, g, lam, slope = sp.symbols("a g lambda M", positive=True)
    square = lam * (sp.sqrt(g) - slip * a / (2 * lam)) ** 2
    at_peak = (a / (2 * lam)).subs(lam, t / (2 * sp.sqrt(slope))) ** 2 - a**2 * slope / t**2
    return (
        sp.expand(a**2 / (4 * lam) - (a * sp.sqrt(g) - lam * g) - square),
        sp.simplify(at_peak),
    )


@check
def dual_cost_by_parts(slip: Expr = 1) -> Residuals:
    """Sum of M times the multiplier's increments, last level included, is the integral of M' times it (three cells)."""
    widths, slopes = sp.symbols("A_1:4", positive=True), sp.symbols("M_1:4", positive=True)
    levels = [t / (2 * sp.sqrt(slope)) for slope in slopes]
    heights = [sum(w * k for w, k in zip(widths[:n], slopes[:n], strict=True)) for n in range(1, 4)]
    steps = [levels[0] - levels[1], levels[1] - levels[2], levels[2]]
    cost = sum(height * step for height, step in zip(heights, steps, strict=True))
    integral = sum(t / 2 * sp.sqrt(slope) * w for w, slope in zip(widths, slopes, strict=True))
    return (sp.simplify(cost - slip * integral),)


@check
def weighted_budget(slip: Expr = 1) -> Residuals:
    """1 + int theta e^(-(1 - theta) D) dD over (0, D_0) = 1 + theta/(1 - theta) (1 - e^(-(1 - theta) D_0))."""
    theta, decay, whole = sp.symbols("theta D D_0", positive=True)
    primitive = -theta / (1 - theta) * sp.exp(-(1 - theta) * decay)
    claimed = slip * theta / (1 - theta) * (1 - sp.exp(-(1 - theta) * whole))
    return (
        sp.simplify(primitive.diff(decay) - theta * sp.exp(-(1 - theta) * decay)),
        sp.simplify(primitive.subs(decay, whole) - primitive.subs(decay, 0) - claimed),
    )


@check
def hessian_of_a_mixture_along_a_line(slip: Expr = 1) -> Residuals:
    """(log q)'' = -sum gamma_k/w_k + gamma_1 gamma_2 (b_1 - b_2)^2; with w_k >= w it exceeds -1/w by a sum of squares.

    Along any line in any dimension a component is exp of a quadratic: p' = b p, b' = -1/w_k.
    """
    low, more = sp.symbols("w h", positive=True)
    widths = (low, low + more)
    parts = [sp.Function(name, positive=True)(z) for name in ("p_1", "p_2")]
    pulls = [sp.Function(name, real=True)(z) for name in ("b_1", "b_2")]
    rules = {p.diff(z): b * p for p, b in zip(parts, pulls, strict=True)}
    rules |= {b.diff(z): -1 / w for b, w in zip(pulls, widths, strict=True)}
    q = sum(parts)
    slope = (q.diff(z) / q).subs(rules)
    hessian = slope.diff(z).subs(rules)
    one, two = (part / q for part in parts)
    covariance = one * two * (pulls[0] - pulls[1]) ** 2
    claimed = -one / widths[0] - two / widths[1] + slip * covariance
    slack = two * more / (low * (low + more)) + covariance
    return sp.simplify(hessian - claimed), sp.simplify(hessian + slip / low - slack)


@check
def contraction_for_means_in_a_ball(slip: Expr = 1) -> Residuals:
    """Exp(-c K) for kappa = 1/(v + tau) - R^2/(v + tau)^2, and kappa attained by two symmetric modes at 0."""
    R, c = sp.symbols("R c", positive=True)
    kappa = 1 / (v + tau) - R**2 / (v + tau) ** 2
    K = -sp.log(v / (v + tau)) - slip * R**2 * (1 / v - 1 / (v + tau))
    q = sp.exp(-((z - R) ** 2) / (2 * (v + tau))) + sp.exp(-((z + R) ** 2) / (2 * (v + tau)))
    at_centre = sp.log(q).diff(z, 2).subs(z, 0)
    return (
        sp.simplify(K.diff(tau) - kappa),
        sp.simplify(K.subs(tau, 0)),
        sp.simplify(sp.exp(-c * K) - (v / (v + tau)) ** c * sp.exp(slip * c * R**2 * (1 / v - 1 / (v + tau)))),
        sp.simplify(at_centre + kappa),
    )


@check
def a_score_without_one_sided_bound(slip: Expr = 1) -> Residuals:
    """Between N(0, diag(1, 2)) and N(0, diag(2, 1)) the curvature across the diagonal at (a, a) is a^2/8 - 3/4."""
    a = sp.Symbol("a", real=True)
    q = sp.exp(-(z**2) / 2 - y**2 / 4) + sp.exp(-(z**2) / 4 - y**2 / 2)
    hessian = sp.hessian(sp.log(q), (z, y)).subs({z: a, y: a})
    across = sp.Matrix([1, -1]) / sp.sqrt(2)
    return (sp.simplify((across.T * hessian * across)[0] - slip * a**2 / 8 + sp.Rational(3, 4)),)


@check
def quadratic_reward_between_two_points(slip: Expr = 1) -> Residuals:
    """r(y) - r(x) = grad r(x)'(y - x) - (y - x)'A(y - x) for r = -(x - c)'A(x - c) + b'x in the plane."""
    x, move, centre, b = (sp.Matrix(sp.symbols(f"{name}_1:3", real=True)) for name in "xhcb")
    A = sp.Matrix(2, 2, sp.symbols("A_11 A_12 A_12 A_22", real=True))

    def r(point: Expr) -> Expr:
        return (b.T * point - (point - centre).T * A * (point - centre))[0]

    slope = b - 2 * A * (x - centre)
    return (sp.expand(r(x + move) - r(x) - (slope.T * move)[0] + slip * (move.T * A * move)[0]),)


@check
def variance_of_a_mixture(slip: Expr = 1) -> Residuals:
    """Var f = sum w_k Var_k f + sum_{j<k} w_j w_k (E_j f - E_k f)^2 for three components."""
    one, two = sp.symbols("w_1 w_2", positive=True)
    w = (one, two, 1 - one - two)
    means, squares = sp.symbols("e_1:4", real=True), sp.symbols("s_1:4", real=True)
    total = sum(a * square for a, square in zip(w, squares, strict=True))
    total -= sum(a * mean for a, mean in zip(w, means, strict=True)) ** 2
    within = sum(a * (square - mean**2) for a, square, mean in zip(w, squares, means, strict=True))
    between = sum(w[j] * w[k] * (means[j] - means[k]) ** 2 for k in range(3) for j in range(k))
    return (sp.expand(total - within - slip * between),)


@check
def schur_test_is_a_square(slip: Expr = 1) -> Residuals:
    """(h^2 g'/g + h'^2 g/g')/2 - h h' = (h sqrt(g'/g) - h' sqrt(g/g'))^2 / 2: the upper enclosure of C_P."""
    h, other = sp.symbols("h k", real=True)
    g, also = sp.symbols("g l", positive=True)
    weighted = (h**2 * also / g + other**2 * g / also) / 2 - slip * h * other
    return (sp.expand(weighted - (h * sp.sqrt(also / g) - other * sp.sqrt(g / also)) ** 2 / 2),)


@check
def inverse_of_a_density_about_a_gaussian(slip: Expr = 1) -> Residuals:
    """1/q = 2/g - q/g^2 + (q - g)^2/(g^2 q)."""
    q, g = sp.symbols("q g", positive=True)
    return (sp.simplify(2 / g - slip * q / g**2 + (q - g) ** 2 / (g**2 * q) - 1 / q),)


@check
def best_weights_of_cauchy_schwarz(slip: Expr = 1) -> Residuals:
    """Sum lam^2 c/w less its minimum 1/sum(w/c) is a sum of squares (sum lam = 1); the same value for cubes."""
    w, c = sp.symbols("w_1:4", positive=True), sp.symbols("c_1:4", positive=True)
    first, second = sp.symbols("lambda_1 lambda_2", real=True)
    lam = (first, second, 1 - first - second)
    total = sum(a / b for a, b in zip(w, c, strict=True))
    best = [a / b / total for a, b in zip(w, c, strict=True)]
    value = sum(k**2 * b / a for k, a, b in zip(lam, w, c, strict=True))
    squares = sum(b / a * (k - k_0) ** 2 for k, k_0, a, b in zip(lam, best, w, c, strict=True))
    roots = sum(a / sp.sqrt(b) for a, b in zip(w, c, strict=True))
    cubic = sum((a / sp.sqrt(b) / roots) ** 3 * b / a**2 for a, b in zip(w, c, strict=True))
    return sp.simplify(value - slip / total - squares), sp.simplify(cubic - roots**-2)


@check
def continuation_beyond_the_grid(slip: Expr = 1) -> Residuals:
    """The derivative that decides the supersolution, the quotient's ends for a power, and a constant's quotient."""
    lam, m, w, L, length, nu, theta, gap = sp.symbols("lambda m w L ell nu theta d", positive=True)
    N, tail = sp.Function("N")(z), sp.Function("T")(z)
    G, g = sp.Function("G")(z), sp.Function("g")(z)
    survival = sp.Function("S")(z)
    rules = {N.diff(z): -(z - m) / w * N, tail.diff(z): -G * N, survival.diff(z): -N, G.diff(z): g}
    slack = (lam * g * N - survival * L - tail).diff(z).subs(rules)
    needed = N * (lam * (g.diff(z) - g * (z - m) / w) + slip * (L + G))
    start = nu / theta
    x = sp.Symbol("x", positive=True)
    quotient = length / start * x**2 / (x**2 / w + x * (gap - start) / w - (nu - 1))
    ends = w * length / (gap - w * theta * (1 - 1 / nu)), w * length * theta / nu
    excess = (w * N - (z - m) * survival).diff(z).subs(rules) + survival  # of int_z^oo (y - z) N(y) dy
    return (
        sp.simplify(slack - needed),
        sp.simplify(quotient.subs(x, start) - slip * ends[0]),
        sp.simplify(sp.limit(quotient, x, sp.oo) - slip * ends[1]),
        sp.simplify(excess),
    )


@check
def noise_left_costs_the_trace(slip: Expr = 1) -> Residuals:
    """E r(x + sigma eps) - r(x) = -sigma^2 tr A for r = -(x - c)'A(x - c) + b'x in the plane."""
    x, centre, b, noise = (sp.Matrix(sp.symbols(f"{name}_1:3", real=True)) for name in ("x", "c", "b", "e"))
    A = sp.Matrix(2, 2, sp.symbols("A_11 A_12 A_12 A_22", real=True))
    sigma = sp.Symbol("sigma", positive=True)

    def r(point: Expr) -> Expr:
        return (b.T * point - (point - centre).T * A * (point - centre))[0]

    change = sp.Poly(sp.expand(r(x + sigma * noise) - r(x)), *noise)
    moments = {0: 1, 1: 0, 2: 1}
    mean = sum(factor * moments[i] * moments[j] for (i, j), factor in change.terms())
    return (sp.expand(mean + slip * sigma**2 * A.trace()),)
