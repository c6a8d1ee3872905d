"""The ledger of claims: what the paper, the theory and this project state, each with the check that decides it.

One module a theme; ``claim`` says what a claim is and how to add one. ``python -m analysis.claims`` runs them all.
"""

from analysis.ledger import (
    assumptions,
    bounds,
    coordinate,
    estimation,
    fine_tuned,
    gaussian_laws,
    gaussian_rates,
    guidance,
    mixtures,
    samplers,
    units,
)
from analysis.ledger.claim import Claim, Theme

THEMES: tuple[Theme, ...] = tuple(
    module.THEME
    for module in (
        coordinate,
        gaussian_laws,
        gaussian_rates,
        fine_tuned,
        mixtures,
        bounds,
        assumptions,
        samplers,
        units,
        guidance,
        estimation,
    )
)
CLAIMS: tuple[Claim, ...] = tuple(claim for theme in THEMES for claim in theme.claims)
