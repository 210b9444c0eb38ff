"""What a tag means to a writer: what it counts, whether a resumed training keeps it, and the file that it names."""

import hashlib
import re

from kerazoo.callbacks.writers.writer import EPOCHS

FORBIDDEN = re.compile(r'[\x00-\x1f<>:"|?*\\]')  # in the name of a file, on one system or another
LONGEST = 100  # bytes of a part of a path; file systems take 255, and endings are added


def counts_epochs(tag: str) -> bool:
    """Whether the step of `tag` is a number of finished epochs, and not of batches."""
    return tag.startswith(EPOCHS)


def is_kept(tag: str, at: int, step: int, epoch: int) -> bool:
    """Whether what was written of `tag` at `at` is kept by a training that goes on from `step` and `epoch`."""
    return at <= (epoch if counts_epochs(tag) else step)


def path_of(tag: str) -> str:
    """`tag` as a relative path that stays below its folder: a/b -> a/b, ../x:y -> _-DIGEST/x_y-DIGEST.

    A part that no file can be named is changed and gets a digest, so that two tags are never one file.
    """
    return "/".join(_harmless(part) for part in tag.split("/"))


def _harmless(part: str) -> str:
    changed = FORBIDDEN.sub("_", part)
    if changed.strip(". ") != changed or not changed:  # "", ".." and "name." among them
        changed = changed.strip(". ") or "_"
    changed = changed.encode()[:LONGEST].decode(errors="ignore")
    if changed == part:
        return part
    return f"{changed}-{hashlib.sha256(part.encode(errors='replace')).hexdigest()[:8]}"
