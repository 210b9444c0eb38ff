"""Images of a report, as `data:` addresses: small pictures of examples, and where the network looked in them."""

import base64
import io
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from kerazoo.errors import ModelError
from kerazoo.reports.html import Html, tag
from kerazoo.reports.material import Material
from kerazoo.startup import start_tensorflow

if TYPE_CHECKING:
    from kerazoo.evaluation.shown import Shown

SIDE, LARGE = 80, 144  # px of a picture's longer side
PIXELATED = 64  # px: smaller images are kept as they are, and shown with larger pixels
QUALITY = 78
MOST_BYTES = 150_000  # of a picture that is taken from the run's folder as it is
LONGEST = 900  # px of such a picture


class Pictures:
    """Pictures of the examples of a run. If they cannot be read, there are none, and the report says why."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self._images: dict[str, np.ndarray] = {}
        self._heats: dict[str, np.ndarray] = {}

    def read(self, keys: Iterable[str]) -> None:
        """Read the images of some examples."""
        try:
            self._images = self._shown.images(keys)
        except Exception as error:  # data that has moved or changed; the numbers are still worth a report
            self.material.leave_out("images", error)

    def look(self, classes: Mapping[str, int]) -> None:
        """Compute where the network looked in some of the images that were read, for an output each."""
        chosen = {key: number for key, number in classes.items() if key in self._images}
        if not chosen:
            return
        try:
            from kerazoo.insight.grad_cam import mean_grad_cam

            prepared = self._shown.prepared(np.stack([self._images[key] for key in chosen]))
            heats = mean_grad_cam(self._shown.networks, prepared, classes=list(chosen.values()))
            self._heats = dict(zip(chosen, heats, strict=True))
        except ModelError:  # a network without feature maps
            return
        except Exception as error:
            self.material.leave_out("Grad-CAM", error)

    @cached_property
    def _shown(self) -> "Shown":
        start_tensorflow()
        from kerazoo.evaluation.shown import Shown

        return Shown(self.material.run)

    def __bool__(self) -> bool:
        return bool(self._images)

    def has(self, key: str) -> bool:
        """Whether there is a picture of an example."""
        return key in self._images

    def small(self, key: str, words: str) -> Html:
        """A small picture; `words` say what it shows."""
        return self._picture(key, words, SIDE)

    def large(self, key: str, words: str) -> Html:
        """A larger picture."""
        return self._picture(key, words, LARGE)

    def has_look(self, key: str) -> bool:
        """Whether there is a heat map for an example."""
        return key in self._heats

    def looked(self, key: str, words: str) -> Html | None:
        """The heat map over the picture; None if there is none."""
        if key not in self._heats:
            return None
        from kerazoo.insight.grad_cam import overlay

        pixels = _fitted(_visible(self._images[key]), LARGE, enlarge=True)
        return _img(overlay(pixels if pixels.ndim == 3 else pixels[..., None], self._heats[key]), words, LARGE)

    def _picture(self, key: str, words: str, side: int) -> Html:
        if key not in self._images:
            return tag("span", words, class_="gone")
        return _img(_fitted(_visible(self._images[key]), side), words, side)


def _visible(pixels: np.ndarray) -> np.ndarray:
    """(h, w, C) -> (h, w, 3) or (h, w): the first three channels, or the first one."""
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]


def _fitted(pixels: np.ndarray, side: int, *, enlarge: bool = False) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1 and not enlarge:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    filtering = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize(size, filtering, reducing_gap=2.0))


def _img(pixels: np.ndarray, words: str, side: int) -> Html:
    height, width = pixels.shape[:2]
    file = io.BytesIO()
    if max(height, width) < PIXELATED:
        Image.fromarray(pixels).save(file, "PNG", optimize=True)
        kind, look = "png", "pixelated"
    else:
        Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
        kind, look = "jpeg", None
    scale = side / max(height, width)
    return tag(
        "img", src=address(file.getvalue(), kind), alt=words, width=round(width * scale), height=round(height * scale),
        class_=look, decoding="async",
    )  # fmt: skip


def address(content: bytes, kind: str) -> str:
    """The content of an image as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def of_file(path: Path, words: str) -> Html | None:
    """A PNG of the run's folder; smaller if it is large, and None if it cannot be read."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if len(content) > MOST_BYTES or max(width, height) > LONGEST:
                small = image.convert("RGB")
                small.thumbnail((LONGEST, LONGEST))
                file = io.BytesIO()
                small.save(file, "JPEG", quality=QUALITY)
                content, (width, height) = file.getvalue(), small.size
                return tag("img", src=address(content, "jpeg"), alt=words, width=width, height=height, decoding="async")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    look = "pixelated" if max(width, height) < 2 * PIXELATED else None
    return tag("img", src=address(content, "png"), alt=words, width=width, height=height, class_=look, decoding="async")
