"""Print every formula that ``gapbound.symbolic`` derives as a LaTeX fragment: ``python -m analysis.derivations``."""

from gapbound.symbolic import latex_document

if __name__ == "__main__":
    print(latex_document(), end="")
