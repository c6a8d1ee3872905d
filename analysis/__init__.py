"""Scripts that regenerate every figure from the library and from seeds, and the benchmarks; run as ``python -m``."""
