"""Copies of a run in other file formats, each proven against the run: ONNX, OpenVINO, SavedModel and Keras.

Import `export_run` and its result from `writer`, and `open_exported`, which runs such a file, from `exported`. The latter and
what it needs (`formats`, `session`) load no Keras for ONNX and OpenVINO files.
"""
