"""Logs runs to TensorBoard and MLflow, from the files of their folders: it knows no result type.

`follow.Follower` logs a training as it runs; `run_log` sends what a folder holds, also long after it was made.
"""
