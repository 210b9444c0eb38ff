"""Splits: choose the held-out examples. The choice depends only on their content.

The first digits of a file's content hash give a number in [0, 1). The file is held out if this number is below the
share, so adding files does not move existing ones. By chance a class could have no or too many held-out files. Its
count is therefore at least 1 and within two standard deviations (of a Poisson count) of its share; files move only to
keep this bound. In arrays, to which nothing is added, each class has its exact share.
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

SECONDS = 20  # time limit for searching all names for groups; a simple pattern takes 0.1 s for 100,000 names
SEARCH = """
import json, re, sys
pattern, keys = json.load(sys.stdin)
found = [re.search(pattern, key) for key in keys]
json.dump([(m is not None, m and m[1 if m.re.groups else 0]) for m in found], sys.stdout)
"""


def with_groups(examples: Examples, pattern: str | None) -> Examples:
    """`examples` with `groups`: the text in each key that the regular expression's first group, or all of it, matches.

    A key without a match is a group by itself. Raises DataError if no key matches.
    """
    if pattern is None:
        return examples
    matches = _searched(pattern, examples.keys)
    if matches is None:
        raise DataError(
            f"data.group={pattern!r} took over {SECONDS} s to search {len(examples):,} names, such as "
            f"{examples.keys[0]!r}; nested repeats like (a+)+ can take forever: rewrite the pattern without them"
        )
    if not any(matched for matched, _ in matches):
        raise DataError(f"data.group={pattern!r} matches no name in {examples.source}, such as {examples.keys[0]!r}")
    named = zip((group for _, group in matches), examples.keys, strict=True)
    return replace(examples, groups=tuple(key if group is None else group for group, key in named))


def _searched(pattern: str, keys: Sequence[str]) -> list[tuple[bool, str | None]] | None:
    """(whether it matches, its first group or the whole match) for each key; None if it takes over SECONDS.

    Some searches never end, and a search cannot be stopped from inside its process. It runs in a process of its own.
    """
    command = [sys.executable, "-I", "-S", "-c", SEARCH]
    request = json.dumps([pattern, list(keys)])
    try:
        search = subprocess.run(command, input=request, capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return None
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise DataError(f"the search for data.group={pattern!r} failed: {reason}") from error
    answer: list[tuple[bool, str | None]] = json.loads(search.stdout)
    return answer


def hold_out(examples: Examples, validation: float, test: float) -> Examples:
    """`examples` with shares of train moved to val and test, in each class, if the data does not have these splits.

    Examples of one group go to the same split, and so do identical files.
    """
    shares = {}
    if "val" not in examples.split_names:
        shares["val"] = validation
    if test and "test" not in examples.split_names:
        shares["test"] = test
    if not shares:
        return examples
    if sum(shares.values()) >= 1:
        raise DataError(f"data.validation={validation} and data.test={test} leave no images to train on; lower them")
    splits = examples.splits.astype("<U5")
    positions = np.flatnonzero(splits == "train")
    splits[positions] = _drawn(examples.take(positions), shares)
    if not np.any(splits == "val"):
        raise DataError(f"{examples.source} has too few groups to hold out one for validation; add a val split")
    return replace(examples, splits=splits)


def units_of(examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(U,) hashes, in order, of the units that must stay in one split; (U,) their first example; (N,) the unit of each.

    Examples with the same group or content form one unit.
    """
    names = examples.hashes
    if examples.groups is not None:
        names = tuple(hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest() for group in examples.groups)
    return np.unique(names, return_index=True, return_inverse=True)


def _drawn(train: Examples, shares: dict[str, float]) -> np.ndarray:
    """(N,) the split of each example. Examples with the same group or content form one unit, with its first class."""
    units, first, unit_of = units_of(train)
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
            most = left - 1 - later  # keep one for train, and one for each later split
            count = max(1, min(most, count)) if most > 0 else 0
            chosen[members[:count]], members = split, members[count:]
            below, left = below + share, left - count
    split_of: np.ndarray = chosen[unit_of]
    return split_of
