"""An interactive view of heatmaps as one piece of HTML: sliders over images and blocks, and the strength of the overlay.

It needs no JavaScript build. Without scripts, as in an exported notebook, it shows the first image and its blocks side by side.
"""

import base64
import html
import json
from collections.abc import Iterable
from functools import cached_property
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np

from xaitune._files import write_bytes
from xaitune._names import short_file
from xaitune.data.resize import map_to_image, resize_image
from xaitune.errors import InputError
from xaitune.plots import overlays

MOST_IMAGES = 24  # in one view: about 5 MB at 5 blocks
LONGEST = 256  # pixels of a picture's longer side


class MapsView:
    """A view of the `BlockHeatmaps` of some images for a notebook (`_repr_html_`) or a file (`save`).

    `images`: their numbers; by default the first MOST_IMAGES. Every image and every map is stored once, as a PNG. Raises
    InputError for more than MOST_IMAGES, or a number that there is not.
    """

    def __init__(self, maps: Any, images: Iterable[int] | None = None) -> None:
        chosen = list(range(min(len(maps), MOST_IMAGES))) if images is None else [int(i) for i in images]
        if not chosen or len(chosen) > MOST_IMAGES or not all(0 <= i < len(maps) for i in chosen):
            raise InputError(
                f"images must be 1 to {MOST_IMAGES} numbers from 0 to {len(maps) - 1}. Received: {len(chosen)} numbers"
                f"{f' from {min(chosen)} to {max(chosen)}' if chosen else ''}."
            )
        self.maps, self.images = maps, chosen

    @property
    def note(self) -> str:
        """What the view leaves out; '' where it shows all images."""
        if len(self.images) == len(self.maps):
            return ""
        return f"{len(self.images)} of {len(self.maps)} images are shown; show(images=[...]) shows others."

    def save(self, path: str | Path) -> Path:
        """Write the view as a page of its own, and return its path. Raises RunError."""
        title = html.escape(f"{self.maps.method} heatmaps")
        page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>{self._repr_html_()}</html>'
        return write_bytes(path, page.encode())

    def _repr_html_(self) -> str:
        template = Template((resources.files("xaitune.explain") / "maps_view.html").read_text(encoding="utf-8"))
        # '<' would end the script; as an escape it is the same JSON.
        data = json.dumps(self._data, ensure_ascii=False).replace("<", "\\u003c")
        deepest = html.escape(self.maps.title(self.maps.blocks[-1]))
        return template.substitute(
            first=self._static(),
            data=data,
            image_count=len(self.images) - 1,
            block_count=len(self.maps.blocks) - 1,
            caption=html.escape(self._data["images"][0]["caption"]),
            block=deepest,
            note=html.escape(self.note),
        )

    @cached_property
    def _data(self) -> dict[str, Any]:
        """The pictures and texts, as the script reads them."""
        maps = self.maps
        return {
            "blocks": [maps.title(block) for block in maps.blocks],
            "images": [self._image(i) for i in self.images],
        }

    def _image(self, i: int) -> dict[str, Any]:
        """One image: its picture, and for each block the map's picture and what speaks against relying on it."""
        maps = self.maps
        picture = _reduced(maps.own_picture(i))
        heats = [
            map_to_image(maps.shown_view(block, i), picture.shape, maps.images.shape[1:3], maps.resize)
            for block in maps.blocks
        ]
        name = short_file(maps.files[i])
        return {
            "caption": f"{name}: {maps.answer(i)}",
            "picture": _png(picture),
            "maps": [_png(_with_alpha(heat)) for heat in heats],
            "doubts": ["; ".join(maps.doubts(i, block)) for block in maps.blocks],
        }

    def _static(self) -> str:
        """The first image and its maps side by side, for a page without scripts."""
        first = self.images[0]
        doubts = [(), *(self.maps.doubts(first, block) for block in self.maps.blocks)]
        names = ["image", *(self.maps.title(block) for block in self.maps.blocks)]
        figures = []
        for (_, picture), name, found in zip(self.maps.panels(first), names, doubts, strict=True):
            warning = f"<br><b>&#9888; {html.escape('; '.join(found))}</b>" if found else ""
            figures.append(
                '<figure style="margin:0 8px 8px 0;display:inline-block;width:180px;vertical-align:top">'
                f'<img alt="{html.escape(name)}" src="{_png(_reduced(picture))}" style="width:100%">'
                f"<figcaption>{html.escape(name)}{warning}</figcaption></figure>"
            )
        return "".join(figures)


def _reduced(picture: np.ndarray) -> np.ndarray:
    """A picture with at most LONGEST pixels per side."""
    height, width = picture.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    return resize_image(picture, (max(round(height * scale), 1), max(round(width * scale), 1)))


def _with_alpha(heat: np.ndarray) -> np.ndarray:
    """(h, w, 4) uint8: a map on the scale 0..1 in its colours, more opaque for higher values, as `overlays.overlay` draws it."""
    opacity = np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)
    return np.concatenate([overlays.heat_colours(heat), opacity[..., None]], axis=2)


def _png(picture: np.ndarray) -> str:
    """A picture, RGB or RGBA 0..255, as a data URL."""
    channels = [2, 1, 0, 3][: picture.shape[2]]
    pixels = np.ascontiguousarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8)[..., channels])
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
