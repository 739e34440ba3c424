"""Keras and everything that touches it: the backend, VGG16 and its blocks, weights, precision, gradients, training steps.

TensorFlow and torch are imported here alone; other folders take `keras` from `backend`. `blocks` needs no Keras.
"""
