"""Hypothesis for the formulas: the same examples on every run, and no clock on a busy machine."""

from hypothesis import settings

settings.register_profile("formulas", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("formulas")
