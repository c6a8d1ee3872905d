"""The gap meter: paired measurements of the reward gap between ODE and SDE sampling, on any diffusers pipeline.

``measure_gap`` runs it, ``write_report`` writes it down; ``python -m empirical.measure_gap`` does both. The modules, in
the order in which they build on each other:

- ``draws``: what the runs of a pair share; ``pipelines``: which classes are known; ``generate``: one run of a batch.
- ``plan``: what is measured; ``store``: where finished pairs are kept; ``run``: the loop; ``clock``: its overhead.
- ``statistics``: means over prompts and their intervals; ``ladder``: the limit of many steps; ``power``: how many
  samples it takes; ``diversity``; ``theory``: what is expected of pairing.
- ``results``: finished pairs as arrays; ``summary``: what they say; ``provenance``: what made them.
- ``words``, ``terminal``, ``figures``, ``gallery``, ``tables``, ``page``, ``report``: how it is told.
"""

from empirical.meter.generate import NetworkError
from empirical.meter.measure import ADAPTERS, Measurement, measure_gap
from empirical.meter.report import write_report
from empirical.meter.run import LatentReward, World

__all__ = ["ADAPTERS", "LatentReward", "Measurement", "NetworkError", "World", "measure_gap", "write_report"]
