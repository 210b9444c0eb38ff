"""Names of files: which names are images, and how to print any name."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
NO_IMAGE = "its name does not have the extension of an image"
# image formats that TensorFlow cannot decode
UNDECODABLE = (
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".ico",
    ".svg",
    ".psd",
    ".dng",
    ".cr2",
    ".nef",
)


def is_image(path: Path) -> bool:
    """Whether the name has the extension of an image that TensorFlow can decode."""
    return path.suffix.lower() in SUFFIXES


def why_left_out(path: Path) -> str:
    """Why a file without the extension of an image is left out."""
    if path.suffix.lower() in UNDECODABLE:
        return f"TensorFlow cannot decode {path.suffix.lower()}; convert it to PNG or JPEG"
    return NO_IMAGE


def undecodable(files: Iterable[Path]) -> str:
    """The images in `files` that TensorFlow cannot decode, and what to do with them, in words; "" if there are none."""
    counts = Counter(p.suffix.lower() for p in files if p.suffix.lower() in UNDECODABLE)
    if not counts:
        return ""
    listed = " and ".join(
        f"{count:,} {ending} file{'s' if count > 1 else ''}" for ending, count in counts.most_common()
    )
    ending = counts.most_common(1)[0][0]
    return (
        f"; it has {listed}, which TensorFlow cannot decode: convert them to PNG or JPEG, for example with "
        f"ImageMagick's `mogrify -format png *{ending}`"
    )


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below `folder` in order of name: images by extension, and the others. Hidden files are left out."""
    paths = sorted(
        p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    files = [p for p in paths if not p.is_dir()]
    return [p for p in files if is_image(p)], [p for p in files if not is_image(p)]


def readable(path: Path | str) -> str:
    """A name that can be printed and stored: bytes that are not UTF-8 are written as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def one_line(name: str) -> str:
    """The name, or its repr if it has characters that cannot be printed on one line."""
    return name if name.isprintable() else repr(name)
