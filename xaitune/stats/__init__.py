"""Scores of a classifier and how reliable they are: arrays in, numbers out.

Import scores from `metrics`, intervals from `intervals` and `per_class`, differences of two models from `comparisons`. They
share `resampling`.
"""
