"""Print every symbolic check with its residuals: ``python -m analysis.proofs``."""

from analysis import command
from analysis.proofs import CHECKS


def main() -> None:
    """One line per check, and a tally."""
    found = {name: function() for name, function in CHECKS.items()}
    for name, residuals in found.items():
        print(f"{name}: {', '.join(map(str, residuals))}")
    exact = sum(residual == 0 for residuals in found.values() for residual in residuals)
    print(f"{len(found)} checks, {exact} of {sum(map(len, found.values()))} residuals are exactly 0")


if __name__ == "__main__":
    command.run(main, "python -m analysis.proofs")
