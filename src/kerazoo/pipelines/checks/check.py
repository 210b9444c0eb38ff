"""Preflight: every image decoded once, with the decoder of training, before anything is trained on it.

| finding         | means                                                              | spoils | excluded by `--write` |
|-----------------|--------------------------------------------------------------------|--------|-----------------------|
| unreadable, dangling link, empty, undecodable, not an image, unsupported, enormous, animated | it cannot be trained on | yes | it |
| leak            | the same pixels in two splits                                      | yes    | the copy nearer to train |
| near leak       | the same image in two splits, saved otherwise, recolored, or under one label turned or mirrored | yes | the copy nearer to train |
| contradiction   | the same pixels under two labels                                   | yes    | all of them           |
| parted group    | a group that is in two splits                                      | yes    | nothing               |
| empty class     | a class without an image to train on                              | yes    | nothing               |
| look-alikes     | over 200,000 with one hash, so that leaks among them may be unnamed | yes   | nothing               |
| untrainable     | training would refuse what is left                                 | yes    | nothing               |
| stale manifest  | the data, or the shares asked for, are not those it was written for | yes   | nothing               |
| look-alikes (fewer of them), near contradiction, possible leak (turned or mirrored, under another label), copy, near copy, missing class, imbalance, split-like name, wrong ending, CMYK, 16-bit, alpha, EXIF-turned, tiny, left out | worth knowing | no | nothing |
"""  # noqa: E501

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError
from kerazoo.pipelines.checks.duplicates import CROWD, DISTANCE, MAX_PAIRS, SAME, LookAlikes, look_alikes, same_pixels
from kerazoo.pipelines.checks.inspection import DECODER, Inspection
from kerazoo.pipelines.checks.scan import inspect_all
from kerazoo.pipelines.data import manifest, splits
from kerazoo.pipelines.data.examples import Examples, split_like_classes
from kerazoo.pipelines.data.file_names import one_line, readable
from kerazoo.pipelines.data.load import check_choice, read_examples, trainable
from kerazoo.recipes.parts import DataPart
from kerazoo.tasks.task import find_task

SPLIT_LIKE = "taken as a class, beside other classes; if it is a split, put the classes into a folder train beside it"
IMBALANCE = 10  # largest class over smallest
KEPT_FIRST = {"test": 0, "val": 1, "train": 2}  # of an image in two splits, the one that others were measured on stays


@dataclass(frozen=True)
class Finding:
    """One thing found: its kind (see the table above), the image or class it is about, and what to know of it."""

    kind: str
    key: str
    detail: str
    spoils: bool = False


@dataclass(frozen=True)
class CheckReport:
    """What a check found. `excluded` says of each image that training should leave out why."""

    source: str
    images: int
    counts: dict[str, dict[str, int]]  # of what is left, by split and class
    findings: tuple[Finding, ...]
    excluded: dict[str, str]
    manifest: str | None  # where the manifest is that excludes them, if there is one

    @property
    def spoiled(self) -> list[Finding]:
        """What would spoil a result, and is not excluded by a manifest."""
        settled = self.excluded if self.manifest else {}
        return [f for f in self.findings if f.spoils and f.key not in settled]

    def kinds(self) -> dict[str, list[Finding]]:
        """Findings by kind, what spoils first, then the most frequent."""
        found: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            found[finding.kind].append(finding)
        return dict(sorted(found.items(), key=lambda item: (not any(f.spoils for f in item[1]), -len(item[1]))))

    def to_json(self) -> dict[str, Any]:
        """All of it, and `"ok"`: whether nothing is left that would spoil a result."""
        return {
            "source": self.source, "ok": not self.spoiled, "images": self.images, "counts": self.counts,
            "findings": [asdict(finding) for finding in self.findings], "excluded": self.excluded,
            "manifest": self.manifest,
        }  # fmt: skip


def check(
    part: DataPart, *, write: bool = False, progress: Callable[[int, int], None] = lambda done, of: None
) -> CheckReport:
    """Look at every image that `part` names; by `write`, keep what was found in the manifest.

    Raises DataError where there is nothing to look at, or where the manifest cannot be written.
    """
    examples = read_examples(part)
    check_choice(examples)
    found = inspect_all(examples, progress=progress)
    good = [i for i, row in enumerate(found) if row.bad is None]
    findings = [Finding(row.bad[0], examples.keys[i], row.bad[1], True) for i, row in enumerate(found) if row.bad]
    excluded = {finding.key: f"{finding.kind}: {finding.detail}" for finding in findings}
    if not good:
        raise DataError(f"{examples.source} has no image that can be decoded: {_first(findings)}")
    hashes = tuple(row.sha256 for row in found)
    sound = replace(examples, known_hashes=hashes).take(good)
    left = splits.hold_out(sound, part.validation, part.test)
    rows = [found[i] for i in good]
    drawn = dict(zip(left.keys, left.splits.tolist(), strict=True))

    pairs = [*_same(left, rows), *_alike(left, rows), *_groups(left)]
    excluded |= {f.key: f"{f.kind}: {f.detail}" for f in pairs if f.spoils and f.kind != "parted group"}
    left = left.take(np.flatnonzero([key not in excluded for key in left.keys]))
    findings += [*pairs, *_classes(left), *_oddities(examples, found)]
    findings += [Finding("left out", key, why) for key, why in examples.left_out.items()]
    findings += [Finding("split-like name", name, SPLIT_LIKE) for name in split_like_classes(examples)]

    path = manifest.manifest_path(examples.source, part.manifest)
    if write:
        stamps = [(row.sha256, row.size, row.mtime_ns) for row in found]
        written = [asdict(finding) for finding in findings]
        manifest.write_manifest(path, examples, stamps, excluded, written, DECODER, drawn, part)
    counts = {split: left.counts(split) for split in left.split_names}
    settled, stale = _is_settled(path, examples, excluded, part)
    if stale:
        findings.append(Finding("stale manifest", path.name, stale, True))
    elif not settled and not any(f.spoils for f in findings) and (refusal := _refusal(sound, part)):
        findings.append(Finding("untrainable", readable(examples.source), refusal, True))
    return CheckReport(
        readable(examples.source), len(examples), counts, tuple(findings), excluded, str(path) if settled else None
    )


def check_images(examples: Examples) -> None:
    """Raises DataError that names every file which cannot be read or decoded, with the reason (at most ten in full).

    What was looked at before and did not change is not decoded again.
    """
    if examples.paths is None:
        return
    found = inspect_all(examples)
    bad = [f"{one_line(examples.paths[i])} ({row.bad[0]}: {row.bad[1]})" for i, row in enumerate(found) if row.bad]
    if bad:
        more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
        count = "1 image" if len(bad) == 1 else f"{len(bad)} images"
        raise DataError(
            f"{count} cannot be decoded: {'; '.join(bad[:10])}{more}; mend or remove them, "
            f"or leave them out by `kerazoo check {examples.source} --write`"
        )


def _is_settled(path: Path, examples: Examples, excluded: dict[str, str], part: DataPart) -> tuple[bool, str]:
    """Whether a manifest excludes all of `excluded`; and what is wrong with it where training would refuse it."""
    if not path.is_file() or part.manifest == manifest.IGNORED:
        return False, ""
    try:
        followed = manifest.follow(examples, part)
    except DataError as error:
        return False, str(error)
    return set(excluded) <= set(followed.left_out), _refusal(followed, part)


def _refusal(examples: Examples, part: DataPart) -> str:
    """Why training would refuse `examples`, or ""."""
    try:
        trainable(examples, part)
    except DataError as error:
        return str(error)
    return ""


def _first(findings: Sequence[Finding]) -> str:
    return f"{one_line(findings[0].key)} ({findings[0].kind}: {findings[0].detail})"


def _same(examples: Examples, found: Sequence[Inspection]) -> Iterable[Finding]:
    """Leaks, contradictions and copies among images with the same pixels."""
    for group in same_pixels(found):
        names = [examples.keys[i] for i in group]
        labels = [_label(examples, i) for i in group]
        where = [str(examples.splits[i]) for i in group]
        if len(set(labels)) > 1:
            for i in group:
                other = next(j for j in group if _label(examples, j) != _label(examples, i))
                detail = f"{_label(examples, i)}, and as {one_line(examples.keys[other])} {_label(examples, other)}"
                yield Finding("contradiction", examples.keys[i], detail, True)
            continue
        first = min(range(len(group)), key=lambda n: KEPT_FIRST[where[n]])
        for n, name in enumerate(names):
            if where[n] != where[first]:
                yield Finding("leak", name, f"in {where[n]}, and as {one_line(names[first])} in {where[first]}", True)
            elif n != first:
                yield Finding("copy", name, f"the same pixels as {one_line(names[first])}")


def _alike(examples: Examples, found: Sequence[Inspection]) -> Iterable[Finding]:
    """Leaks, contradictions and copies among images that look the same."""
    alike = look_alikes(found)
    if min(alike.reach, alike.crops_reach) < DISTANCE or alike.crowded:
        yield _crowd(alike, examples.source)
    for pair in alike.pairs:
        a, b = sorted((pair.a, pair.b), key=lambda i: -KEPT_FIRST[str(examples.splits[i])])
        name, other = examples.keys[a], one_line(examples.keys[b])
        seen = f"looks like {other}{f' {pair.turned}' if pair.turned else ''} ({pair.likeness:.3f})"
        parted = examples.splits[a] != examples.splits[b]
        same_label = _label(examples, a) == _label(examples, b)
        if parted:
            seen += f", which is in {examples.splits[b]}"
            leak = not pair.turned or same_label
            yield Finding("near leak" if leak else "possible leak", name, seen, leak)
        if not same_label:
            words = f"{_label(examples, a)}, and {seen}, labelled {_label(examples, b)}"
            yield Finding("near contradiction", name, words)
        elif not parted and not pair.turned:
            yield Finding("near copy", name, seen)


def _crowd(alike: LookAlikes, source: str) -> Finding:
    """What is not named of images that are one of many which look alike."""
    detail = f"{alike.crowded:,} images look like over {CROWD} others each; theirs are named from a likeness of {SAME}"
    if alike.reach < 0:
        detail = f"over {MAX_PAIRS:,} pairs have one hash; each image was compared with the next of its hash only"
    elif alike.reach < DISTANCE:
        detail += f", and of all only pairs whose hashes differ in at most {alike.reach} bits were compared"
    if alike.crops_reach < 0:
        detail += "; crops were not searched for"
    elif alike.crops_reach < DISTANCE:
        detail += f"; crops only where hashes differ in at most {alike.crops_reach} bits"
    return Finding("look-alikes", readable(source), detail, alike.reach < 0)


def _label(examples: Examples, index: int) -> str:
    return find_task(examples.task).text(examples.labels[index], examples.class_names)


def _groups(examples: Examples) -> Iterable[Finding]:
    if examples.groups is None:
        return
    where: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(examples.groups, examples.splits.tolist(), strict=True):
        where[group].add(split)
    for group, parts in where.items():
        if len(parts) > 1:
            yield Finding("parted group", group, f"it is in {' and '.join(sorted(parts))}", True)


def _classes(examples: Examples) -> Iterable[Finding]:
    """Classes that are missing, and classes of very unlike size."""
    if not find_task(examples.task).probabilities:
        return
    train = examples.counts("train")
    for split in dict.fromkeys(["train", *examples.split_names]):
        for name, count in examples.counts(split).items():
            if count == 0 and split == "train":
                yield Finding("empty class", name, "it has no image to train on", True)
            elif count == 0:
                yield Finding("missing class", name, f"it has no image in {split}")
    largest, smallest = max(train, key=lambda n: train[n]), min(train, key=lambda n: train[n])
    if train[smallest] and train[largest] > IMBALANCE * train[smallest]:
        ratio = f"{train[largest] / train[smallest]:.1f} times as many in {largest}"
        yield Finding(
            "imbalance", smallest, f"{train[smallest]} to train on, {ratio}; training.balance makes up for it"
        )


def _oddities(examples: Examples, found: Sequence[Inspection]) -> Iterable[Finding]:
    for key, row in zip(examples.keys, found, strict=True):
        for kind, detail in row.odd:
            yield Finding(kind, key, detail)
