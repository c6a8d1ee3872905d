"""Settings for every test: hypothesis repeats the same examples in every run, without a time limit per example."""

from hypothesis import settings

settings.register_profile("gapbound", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("gapbound")
