"""Check images before training, and prepare them in the same pass: each file is read and decoded once."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import numpy as np

from kerazoo.caches import cache_folder
from kerazoo.pipelines.checks.check import refuse_bad
from kerazoo.pipelines.checks.inspection import Inspection
from kerazoo.pipelines.checks.scan import AT_ONCE, COLORS, inspect_all, inspect_and_resize
from kerazoo.pipelines.data.examples import Examples, check_hashes
from kerazoo.pipelines.input.images import prepared
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.terminal import format_bytes, progress_bar

log = logging.getLogger("kerazoo")


class _Bad(Exception):
    """An image cannot be decoded, so that the images of its split are not kept."""


def check_and_prepare(
    examples: Examples, preprocessing: Preprocessing, *, cache: str, passes: Mapping[str, int]
) -> dict[str, np.ndarray | None]:
    """{split: its resized images, see `prepared`}; `passes` counts those over the files of a split, with this one.

    A split is left out if this pass has nothing to give for it. Raises DataError, which names the images that cannot be
    decoded, as `check_images` does; and what `prepared` raises.
    """
    opened: dict[str, np.ndarray | None] = {}
    if examples.paths is None:
        return opened
    paths: list[str] = []
    with progress_bar() as progress:
        check = _Check(lambda done: progress(done, len(examples)))
        for split in examples.split_names:
            part = examples.split(split)
            before = len(check.rows)
            if preprocessing.channels == COLORS:
                with suppress(_Bad):
                    opened[split] = prepared(
                        part, preprocessing, cache=cache, passes=passes[split], fitted=check.blocks
                    )
            if len(check.rows) == before:  # the images were kept before, or are not kept at all
                check.inspect(part)
            paths += part.paths or ()
    refuse_bad(examples.source, paths, check.rows)
    if check.written:
        size = check.written * int(np.prod(preprocessing.shape))
        log.info(f"wrote {check.written:,} prepared images to {cache_folder('images')} ({format_bytes(size)})")
    return opened


class _Check:
    """The inspections of all images so far."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self.rows: list[Inspection] = []
        self.progress = progress
        self.written = 0  # images of splits that are kept

    def blocks(self, part: Examples, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
        """Inspect `part`, and give its images. Raises _Bad at the end if one is bad, DataError if one has changed."""
        assert part.paths is not None
        before = len(self.rows)
        for block in inspect_and_resize(part.paths, preprocessing, self.rows):
            if (len(self.rows) - before) % AT_ONCE == 0:
                self.progress(len(self.rows))
            yield block
        rows = self.rows[before:]
        if any(row.bad for row in rows):
            raise _Bad
        check_hashes(part, [row.sha256 for row in rows], part.hashes)
        self.written += len(rows)

    def inspect(self, part: Examples) -> None:
        """Inspect `part` alone."""
        before = len(self.rows)
        self.rows += inspect_all(part, progress=lambda done, of: self.progress(before + done))
