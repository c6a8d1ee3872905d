"""The ledger of claims: what the paper, the theory and this project state, each with the check that decides it.

One module a theme; ``claim`` says what a claim is and how to add one. ``python -m analysis.claims`` runs them all.
"""

from analysis.ledger import (
    assumptions,
    bounds,
    budget,
    centred,
    coordinate,
    estimation,
    fine_tuned,
    gaussian_laws,
    gaussian_rates,
    gradients,
    guidance,
    lipschitz,
    matched,
    mixtures,
    moving_windows,
    optimum,
    optimum_linear,
    regulator,
    samplers,
    sharpness,
    signed_error,
    training,
    transfer,
    transfer_trained,
    units,
)
from analysis.ledger.claim import Claim, Theme

THEMES: tuple[Theme, ...] = tuple(
    module.THEME
    for module in (
        coordinate,
        gaussian_laws,
        gaussian_rates,
        centred,
        fine_tuned,
        optimum,
        optimum_linear,
        regulator,
        moving_windows,
        transfer,
        transfer_trained,
        matched,
        gradients,
        training,
        mixtures,
        bounds,
        sharpness,
        assumptions,
        lipschitz,
        samplers,
        units,
        guidance,
        signed_error,
        budget,
        estimation,
    )
)
CLAIMS: tuple[Claim, ...] = tuple(claim for theme in THEMES for claim in theme.claims)
