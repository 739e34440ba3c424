"""What a model sees in an image: Grad-CAM at every block, CAM, LIME superpixels, and their files.

Import `explain_images` from `api`, the methods from `gradcam`, `cam` and `lime.explain`, results from `heatmaps` and
`lime.result`, the checks of heatmaps from `map_checks`, boxes around what they mark from `boxes`, an explanation made again
from `verification`, what is explained from `classifier`, class probabilities from `probabilities`.
"""
