"""Inspection of one image file: its format, whether the decoder of training can read it, and its thumbnail.

A file is read and decoded once. The result is cached by path, size and time of change, so a second check of an
unchanged folder takes a fraction of the time.
"""

import contextlib
import hashlib
import io
import json
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from kerazoo.preprocessing.decoding import announced_bytes, reason_of
from kerazoo.preprocessing.exif import orientation_of
from kerazoo.preprocessing.headers import LARGE
from kerazoo.preprocessing.image_files import TooLargeError, read_image
from kerazoo.preprocessing.preprocessing import Preprocessing

TINY = 16  # px of the shorter side
# change the number when the decoder's output or the inspection changes; older results are then computed again
DECODER = f"4-{tf.__version__}"
THUMB = 16  # px
PILLOW_SEES = 1_000_000  # bytes; reading a header takes 3 microseconds for each segment

DECODED = Preprocessing(1, 1)  # decodes to three channels


@dataclass(frozen=True, slots=True)
class Inspection:
    """The inspection of one file. `bad` says why it cannot be trained on; `odd` has other facts to report.

    `pixels` is a digest of shape and decoded pixels; `thumb` is (16, 16, 3) uint8, for the search for look-alikes.
    """

    sha256: str = ""
    size: int = -1
    mtime_ns: int = -1
    bad: tuple[str, str] | None = None  # (kind, reason)
    odd: tuple[tuple[str, str], ...] = ()  # (kind, detail)
    pixels: str = ""
    thumb: bytes = b""


def inspect_file(path: str, then: Callable[[np.ndarray], None] | None = None) -> Inspection:
    """Read, decode and describe one file. Its problems are reported in the result; nothing is raised.

    `then` is called with the decoded pixels, (H, W, 3) uint8; what it raises is not about the file.
    """
    seen: dict[str, Any] = {}
    try:
        status = Path(path).stat()
        seen = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        contents, status = read_image(path)
    except TooLargeError as error:
        return Inspection(**seen, bad=("enormous", str(error)))
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        kind = "dangling link" if isinstance(error, FileNotFoundError) and Path(path).is_symlink() else "unreadable"
        return Inspection(**seen, bad=(kind, getattr(error, "strerror", None) or str(error)))
    return inspect_contents(contents, Path(path).suffix, then, size=status.st_size, mtime_ns=status.st_mtime_ns)


def inspect_contents(
    contents: bytes, suffix: str, then: Callable[[np.ndarray], None] | None = None, **seen: int
) -> Inspection:
    """Decode and describe the contents of a file whose name ends in `suffix`; `then` as in `inspect_file`."""
    values: dict[str, Any] = {"sha256": hashlib.sha256(contents).hexdigest(), **seen}
    if not contents:
        return Inspection(**values, bad=("empty", "it has no bytes"))
    try:
        size = announced_bytes(contents)
        _, odd = _header(contents, suffix)
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        return Inspection(**values, bad=_failure(error, contents))
    with _ONE_LARGE if size > LARGE else contextlib.nullcontext():
        try:
            pixels = _decode(contents)
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            return Inspection(**values, bad=_failure(error, contents))
        found = _described(values, odd, pixels)
        if then is not None:
            then(pixels)
    return found


def inspect_decoded(contents: bytes, suffix: str, pixels: np.ndarray, **seen: int) -> Inspection:
    """As `inspect_contents`, for contents that were decoded to `pixels`, (H, W, 3) uint8."""
    values = {"sha256": hashlib.sha256(contents).hexdigest(), **seen}
    return _described(values, _header(contents, suffix)[1], pixels)


def _described(values: dict[str, Any], odd: tuple[tuple[str, str], ...], pixels: np.ndarray) -> Inspection:
    """The inspection of an image that was decoded."""
    if min(pixels.shape[:2]) < TINY:
        odd = (*odd, ("tiny", f"{pixels.shape[1]} x {pixels.shape[0]} px"))
    return Inspection(**values, odd=odd, **_looks(pixels))


def _failure(error: Exception, contents: bytes) -> tuple[str, str]:
    """(kind, reason) of what cannot be decoded."""
    reason = reason_of(error)
    kind = next((kind for word, kind in KINDS_OF_FAILURE if word in reason), "undecodable")
    known_format = _by_signature(contents)
    if kind == "not an image" and known_format:
        return "unsupported", f"{known_format} is not supported; save it as JPEG or PNG"
    return kind, reason


KINDS_OF_FAILURE = (
    ("it is animated", "animated"),
    ("header announces", "enormous"),
    ("it is not a ", "not an image"),
)
_ONE_LARGE = threading.Lock()  # only one thread at a time may use the memory for a large image


def _decode(contents: bytes) -> np.ndarray:
    with tf.device("CPU:0"):
        return np.asarray(memoryview(DECODED.decode(tf.constant(contents))))  # without a copy


def _header(contents: bytes, suffix: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """(format or "", oddities), which Pillow reads from the header alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(contents[:PILLOW_SEES]), formats=FORMATS)
    except Exception:  # Pillow's readers may raise any error; the decoder decides
        return "", ()
    form, mode = str(image.format), image.mode
    odd: list[tuple[str, str]] = []
    if form not in ENDINGS.get(suffix.lower(), ()):
        odd.append(("wrong ending", f"the format is {form}, but the extension is {suffix}"))
    if mode == "CMYK":
        odd.append(("CMYK", "converted to RGB"))
    if mode.startswith("I") or (form == "PNG" and contents[24:25] == b"\x10"):
        odd.append(("16-bit", "the upper 8 bits are used"))
    if mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        keyed = form == "PNG" and mode not in ("LA", "RGBA", "PA", "P")
        odd.append(("alpha", "the transparency is ignored" if form == "GIF" or keyed else "blended with white"))
    if form == "PNG" and getattr(image, "is_animated", False):
        odd.append(("animated", "the first image is used"))
    try:
        at = contents.rfind(b"eXIf")
        if form == "PNG" and "exif" not in image.info and at > 0:
            length = int.from_bytes(contents[at - 4 : at], "big")
            image.info["exif"] = contents[at + 4 : at + 4 + length]
        orientation = Image.Image.getexif(image).get(0x0112, 1)  # PngImageFile.getexif would decode the image
    except Exception:  # broken EXIF counts as no EXIF
        orientation = 1
    if orientation in range(2, 9):
        turned = form in ("JPEG", "MPO") and orientation_of(contents) == orientation
        odd.append(("EXIF-turned", f"orientation {orientation}, {'rotated upright' if turned else 'not rotated'}"))
    return form, tuple(odd)


ENDINGS = {
    ".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO"), ".png": ("PNG",), ".gif": ("GIF",), ".bmp": ("BMP", "DIB"),
    ".webp": ("WEBP",),
}  # fmt: skip
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP")  # JPEG opens MPO, too


def _by_signature(contents: bytes) -> str:
    """The name of a known format that is not supported, else ""."""
    kinds = (
        (4, b"ftypavif", "AVIF"), (4, b"ftypheic", "HEIC"), (4, b"ftypmif1", "HEIF"), (0, b"II*\0", "TIFF"),
        (0, b"MM\0*", "TIFF"), (0, b"8BPS", "PSD"), (0, b"\0\0\1\0", "ICO"), (0, b"%PDF", "PDF"), (0, b"<svg", "SVG"),
        (0, b"\xff\x0a", "JPEG XL"), (4, b"JXL ", "JPEG XL"), (4, b"jP  ", "JPEG 2000"),
    )  # fmt: skip
    return next((name for at, mark, name in kinds if contents[at : at + len(mark)] == mark), "")


def _looks(pixels: np.ndarray) -> dict[str, Any]:
    """Digest and thumbnail of (H, W, C) uint8 pixels; the thumbnail has three channels."""
    digest = hashlib.blake2b(struct.pack("<2I", *pixels.shape[:2]), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    if pixels.shape[-1] != 3:
        pixels = np.ascontiguousarray(np.take(pixels, [0, 1, 2], axis=-1, mode="clip"))
    thumb = Image.fromarray(pixels).resize((THUMB, THUMB), Image.Resampling.BOX)
    return {"pixels": digest.hexdigest(), "thumb": thumb.tobytes()}


def inspect_array(pixels: np.ndarray, content: str) -> Inspection:
    """The inspection of one image of an array, (H, W, C) uint8, whose sha256 is `content`."""
    return Inspection(sha256=content, **_looks(np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels))


def read_known(text: str, thumb: bytes) -> Inspection:
    """The inspection that `Inspections.keep` stored. Raises ValueError, KeyError or TypeError if it is damaged."""
    values = json.loads(text)
    bad = None if values["bad"] is None else tuple(values["bad"])
    odd = tuple((str(kind), str(detail)) for kind, detail in values["odd"])
    inspection = Inspection(**{**values, "bad": bad, "odd": odd}, thumb=thumb)
    if len(thumb) != (0 if inspection.bad else 3 * THUMB**2) or len(bad or ("", "")) != 2:
        raise ValueError("it is damaged")
    return inspection


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover [0, count)."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
