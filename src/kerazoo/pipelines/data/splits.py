"""Splits: which of the examples are held out, as a function of nothing but content.

A file is held out when the number its content hash begins with, in [0, 1), is below the share: adding files moves none
that is there. So that chance does not leave a class with none or with far too many, its count is kept from 1 to within
two standard deviations (of a Poisson count) of its share; files move only where it would leave that. Arrays, which
nothing is added to, give each class its exact share.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kerazoo.errors import DataError
from kerazoo.pipelines.data.examples import Examples
from kerazoo.tasks.task import find_task

SECONDS = 20  # to search all names for groups; a plain pattern takes 0.1 s for 100,000
SEARCH = """
import json, re, sys
pattern, keys = json.load(sys.stdin)
found = [re.search(pattern, key) for key in keys]
json.dump([(m is not None, m and m[1 if m.re.groups else 0]) for m in found], sys.stdout)
"""


def with_groups(examples: Examples, pattern: str | None) -> Examples:
    """The same with `groups` by a regular expression on the keys: its first group, or all it matches.

    A key without a match is a group by itself. Raises DataError where nothing matches.
    """
    if pattern is None:
        return examples
    found = _searched(pattern, examples.keys)
    if found is None:
        raise DataError(
            f"data.group={pattern!r} took over {SECONDS} s to search {len(examples):,} names, such as "
            f"{examples.keys[0]!r}; nested repeats like (a+)+ can take for ever: write it without them"
        )
    if not any(matched for matched, _ in found):
        raise DataError(f"data.group={pattern!r} matches no name in {examples.source}, such as {examples.keys[0]!r}")
    named = zip((group for _, group in found), examples.keys, strict=True)
    return replace(examples, groups=tuple(key if group is None else group for group, key in named))


def _searched(pattern: str, keys: Sequence[str]) -> list[tuple[bool, str | None]] | None:
    """(whether it matches, its first group or all of the match) for each key; None where it takes over SECONDS.

    A search cannot be broken off from within its process, and some never end: it runs in one of its own.
    """
    command = [sys.executable, "-I", "-S", "-c", SEARCH]
    asked = json.dumps([pattern, list(keys)])
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return None
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise DataError(f"data.group={pattern!r} could not be searched for: {reason}") from error
    answer: list[tuple[bool, str | None]] = json.loads(done.stdout)
    return answer


def hold_out(examples: Examples, validation: float, test: float) -> Examples:
    """Move shares of train to val and test, each only where the data has no such split; within each class.

    What belongs to one group goes one way, and so do identical files.
    """
    shares = {}
    if "val" not in examples.split_names:
        shares["val"] = validation
    if test and "test" not in examples.split_names:
        shares["test"] = test
    if not shares:
        return examples
    if sum(shares.values()) >= 1:
        raise DataError(f"data.validation={validation} and data.test={test} leave nothing to train on")
    splits = examples.splits.astype("<U5")
    positions = np.flatnonzero(splits == "train")
    splits[positions] = _drawn(examples.take(positions), shares)
    if not np.any(splits == "val"):
        raise DataError(f"{examples.source} has too few groups to hold any out for validation; give it a val split")
    return replace(examples, splits=splits)


def _drawn(train: Examples, shares: dict[str, float]) -> np.ndarray:
    """(N,) the split of each example. What has one name (a group, or a content) is one unit, of its first class."""
    names = train.hashes
    if train.groups is not None:
        names = tuple(hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest() for group in train.groups)
    units, first, unit_of = np.unique(names, return_index=True, return_inverse=True)  # in order of hash
    numbers = np.array([int(unit[:16], 16) / 2**64 for unit in units])
    class_of = find_task(train.task).strata(train.labels)[first]
    chosen = np.full(len(units), "train", "<U5")
    for label in np.unique(class_of):
        members = np.flatnonzero(class_of == label)
        below, left = 0.0, len(members)
        for later, (split, share) in zip(reversed(range(len(shares))), shares.items(), strict=True):
            wanted = share * np.sum(class_of == label)
            drawn = wanted if train.pixels is not None else np.sum(numbers[members] < below + share)
            slack = 2 * np.sqrt(wanted)
            count = round(float(np.clip(drawn, wanted - slack, wanted + slack)))
            most = left - 1 - later  # one is left for train, and one for each split to come
            count = max(1, min(most, count)) if most > 0 else 0
            chosen[members[:count]], members = split, members[count:]
            below, left = below + share, left - count
    return chosen[unit_of]
