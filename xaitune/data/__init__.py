"""From an image folder to `ImageData`: decoding, resizing, listing, splits by group, duplicates and checks.

Import `ImageData` from `dataset`, reading of single images from `images`, resizing of images and maps from `resize`.
"""
