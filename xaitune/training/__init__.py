"""One training: frozen features, the head, epochs with a checkpoint, and the run folder that they end in.

Import `train_model` from `train`, the result from `run`, what a folder is from `folder`, cached features from `features`.
"""
