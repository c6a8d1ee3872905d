"""Importing the library loads what everything needs, torch, and little beside it."""

import subprocess
import sys

HEAVY = ("sympy", "scipy.stats", "scipy.interpolate", "scipy.optimize", "matplotlib", "diffusers", "transformers")


def test_importing_gapbound_loads_nothing_heavy_but_torch():
    code = f"import sys, gapbound as gb; print([name for name in {HEAVY} if name in sys.modules]); "
    code += "print(gb.rate(gb.Gaussian(0.5, 1.0), gb.VE, gb.Linear(1.0)), 'sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\ngap ~ -0.5 T^-1 True\n"
