"""LIME over superpixels: segments, masks, the model's answers, the fit, and the surrogate that completes it.

Import `lime_superpixels` from `explain` and `Superpixels` from `result`.
"""
