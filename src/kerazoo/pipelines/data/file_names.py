"""Names of files: which are images, and how any name is printed."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
NO_IMAGE = "its name does not end as an image's does"
# formats of images that TensorFlow does not decode
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
    """Whether its name ends as that of an image which TensorFlow decodes."""
    return path.suffix.lower() in SUFFIXES


def why_left_out(path: Path) -> str:
    """Why a file whose name is not that of an image takes no part."""
    if path.suffix.lower() in UNDECODABLE:
        return f"TensorFlow does not decode {path.suffix.lower()}; convert it to PNG or JPEG"
    return NO_IMAGE


def undecodable(files: Iterable[Path]) -> str:
    """ "", or what `files` hold of images that TensorFlow does not decode, and what to do about it."""
    found = Counter(p.suffix.lower() for p in files if p.suffix.lower() in UNDECODABLE)
    if not found:
        return ""
    kinds = " and ".join(f"{count:,} {ending} file{'s' if count > 1 else ''}" for ending, count in found.most_common())
    ending = found.most_common(1)[0][0]
    return (
        f"; it has {kinds}, which TensorFlow does not decode: convert them to PNG or JPEG, such as by "
        f"ImageMagick's `mogrify -format png *{ending}`"
    )


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below `folder` in order of name: those that end like images, and the others. Hidden ones count not."""
    found = sorted(
        p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    files = [p for p in found if not p.is_dir()]
    return [p for p in files if is_image(p)], [p for p in files if not is_image(p)]


def readable(path: Path | str) -> str:
    """A name that can be printed and stored: bytes that are no UTF-8 are written as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def one_line(name: str) -> str:
    """A name as it is where it can be printed on one line, else with its odd characters written out."""
    return name if name.isprintable() else repr(name)
