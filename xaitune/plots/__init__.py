"""Plots and pictures: plain arrays and tables in, matplotlib Axes or uint8 arrays out.

Import charts from `charts`, images side by side from `pictures`, overlays from `overlays`, saving and fonts from `figures`.
"""
