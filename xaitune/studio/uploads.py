"""Images that were dropped on the page: checked by decoding them, and kept in memory only."""

import itertools
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from xaitune.data.images import decode_image
from xaitune.errors import ImageError
from xaitune.studio.catalogue import NotServed

KEPT = 8  # the last uploads


class Uploads:
    """The last images that were uploaded, by number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._kept: OrderedDict[int, tuple[str, bytes]] = OrderedDict()

    def add(self, name: str, data: bytes) -> int:
        """Keep an image and return its number. Raises ImageError for what cannot be decoded."""
        if not data:
            raise ImageError(f"{name} is empty (0 bytes). Copy it again or choose another.")
        decode_image(data, name)
        with self._lock:
            number = next(self._numbers)
            self._kept[number] = (name, data)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return number

    def pixels(self, number: Any, bit_depth: int | None = None) -> tuple[str, np.ndarray]:
        """(name, RGB 0..255) of an upload. Raises NotServed for one that is not kept any more."""
        with self._lock:
            found = self._kept.get(number) if isinstance(number, int) else None
        if found is None:
            raise NotServed("This upload is not kept any more. Choose the image again.")
        return found[0], decode_image(found[1], found[0], bit_depth=bit_depth)
