"""The freeze advice: a probe, the evidence of its blocks' heatmaps, the decision, and its check against a sweep.

Import `advise_freeze` from `recommend`, the advice from `advice`, the check from `check`.
"""
