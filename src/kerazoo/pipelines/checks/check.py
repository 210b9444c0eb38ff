"""Preflight check: decode every image once, with the decoder of training, before training starts.

| finding         | means                                                              | spoils | excluded by `--write` |
|-----------------|--------------------------------------------------------------------|--------|-----------------------|
| unreadable, dangling link, empty, undecodable, not an image, unsupported, enormous, animated | the image cannot be trained on | yes | the image |
| leak            | the same pixels in two splits                                      | yes    | the copy nearer to train |
| near leak       | the same image in two splits, saved differently, recolored, or rotated or mirrored with the same label | yes | the copy nearer to train |
| contradiction   | the same pixels under two labels                                   | yes    | all of them           |
| parted group    | a group in two splits                                              | yes    | nothing               |
| empty class     | a class without an image to train on                              | yes    | nothing               |
| look-alikes     | over 200,000 pairs with the same hash; leaks among them may be missed | yes | nothing               |
| untrainable     | training would refuse the remaining images                         | yes    | nothing               |
| stale manifest  | the data or the shares differ from those of the manifest           | yes    | nothing               |
| look-alikes (fewer of them), near contradiction, possible leak (rotated or mirrored, with another label), copy, near copy, missing class, imbalance, split-like name, wrong ending, CMYK, 16-bit, alpha, EXIF-turned, tiny, left out | worth knowing | no | nothing |
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

SPLIT_LIKE = "used as a class; if it is a split, move the other classes into a folder named train beside it"
IMBALANCE = 10  # largest class over smallest
# an image in two splits stays in the first of these: other results may have been measured on val and test
KEPT_FIRST = {"test": 0, "val": 1, "train": 2}


@dataclass(frozen=True)
class Finding:
    """One finding: its kind (see the table above), the image or class it is about, and the details."""

    kind: str
    key: str
    detail: str
    spoils: bool = False


@dataclass(frozen=True)
class CheckReport:
    """The result of a check. `excluded` has each image that training should leave out, with the reason."""

    source: str
    images: int
    counts: dict[str, dict[str, int]]  # remaining images by split and class
    findings: tuple[Finding, ...]
    excluded: dict[str, str]
    manifest: str | None  # the path of the manifest that excludes them, if there is one

    @property
    def spoiled(self) -> list[Finding]:
        """The findings that would spoil a result and are not excluded by a manifest."""
        settled = self.excluded if self.manifest else {}
        return [f for f in self.findings if f.spoils and f.key not in settled]

    def kinds(self) -> dict[str, list[Finding]]:
        """The findings by kind: first the kinds that spoil a result, then the most frequent."""
        kinds: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            kinds[finding.kind].append(finding)
        return dict(sorted(kinds.items(), key=lambda item: (not any(f.spoils for f in item[1]), -len(item[1]))))

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object. `"ok"` says whether no finding would spoil a result."""
        return {
            "source": self.source, "ok": not self.spoiled, "images": self.images, "counts": self.counts,
            "findings": [asdict(finding) for finding in self.findings], "excluded": self.excluded,
            "manifest": self.manifest,
        }  # fmt: skip


def check(
    part: DataPart, *, write: bool = False, progress: Callable[[int, int], None] = lambda done, of: None
) -> CheckReport:
    """The report on every image that `part` names. `write` saves it in the manifest.

    Raises DataError if there are no images, or if the manifest cannot be written.
    """
    examples = read_examples(part)
    check_choice(examples)
    inspections = inspect_all(examples, progress=progress)
    good = [i for i, row in enumerate(inspections) if row.bad is None]
    findings = [Finding(row.bad[0], examples.keys[i], row.bad[1], True) for i, row in enumerate(inspections) if row.bad]
    excluded = {finding.key: f"{finding.kind}: {finding.detail}" for finding in findings}
    if not good:
        raise DataError(f"{examples.source} has no image that can be decoded: {_first(findings)}")
    hashes = tuple(row.sha256 for row in inspections)
    sound = replace(examples, known_hashes=hashes).take(good)
    left = splits.hold_out(sound, part.validation, part.test)
    rows = [inspections[i] for i in good]
    drawn = dict(zip(left.keys, left.splits.tolist(), strict=True))

    pairs = [*_same(left, rows), *_alike(left, rows), *_groups(left)]
    excluded |= {f.key: f"{f.kind}: {f.detail}" for f in pairs if f.spoils and f.kind != "parted group"}
    left = left.take(np.flatnonzero([key not in excluded for key in left.keys]))
    findings += [*pairs, *_classes(left), *_oddities(examples, inspections)]
    findings += [Finding("left out", key, why) for key, why in examples.left_out.items()]
    findings += [Finding("split-like name", name, SPLIT_LIKE) for name in split_like_classes(examples)]

    path = manifest.manifest_path(examples.source, part.manifest)
    if write:
        stamps = [(row.sha256, row.size, row.mtime_ns) for row in inspections]
        written = [asdict(finding) for finding in findings]
        manifest.write_manifest(path, examples, stamps, excluded, written, DECODER, drawn, part)
    counts = {split: left.counts(split) for split in left.split_names}
    settled, stale = _is_settled(path, examples, excluded, part)
    if stale:
        findings.append(Finding("stale manifest", path.name, stale, True))
    elif not settled and not any(f.spoils for f in findings):
        refusal = _refusal(sound, part)
        if refusal:
            findings.append(Finding("untrainable", readable(examples.source), refusal, True))
    return CheckReport(
        readable(examples.source), len(examples), counts, tuple(findings), excluded, str(path) if settled else None
    )


def check_images(examples: Examples) -> None:
    """Raise DataError, which names the files that cannot be read or decoded, with reasons (the first ten).

    Files that were inspected before and have not changed are not decoded again.
    """
    if examples.paths is None:
        return
    refuse_bad(examples.source, examples.paths, inspect_all(examples))


def refuse_bad(source: str, paths: Sequence[str], rows: Sequence[Inspection]) -> None:
    """Raise DataError if a file of `paths`, whose inspections are `rows`, cannot be read or decoded."""
    bad = [f"{one_line(path)} ({row.bad[0]}: {row.bad[1]})" for path, row in zip(paths, rows, strict=True) if row.bad]
    if bad:
        more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
        count = "1 image" if len(bad) == 1 else f"{len(bad)} images"
        raise DataError(
            f"{count} cannot be decoded: {'; '.join(bad[:10])}{more}; repair or remove them, "
            f"or exclude them with `kerazoo check {source} --write`"
        )


def _is_settled(path: Path, examples: Examples, excluded: dict[str, str], part: DataPart) -> tuple[bool, str]:
    """Whether a manifest excludes all of `excluded`, and why training would refuse it, or ""."""
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


def _same(examples: Examples, inspections: Sequence[Inspection]) -> Iterable[Finding]:
    """Leaks, contradictions and copies among images with the same pixels."""
    for group in same_pixels(inspections):
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


def _alike(examples: Examples, inspections: Sequence[Inspection]) -> Iterable[Finding]:
    """Leaks, contradictions and copies among images that look the same."""
    alike = look_alikes(inspections)
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
    """A finding that says which pairs of very similar images were not compared or not listed."""
    detail = (
        f"{alike.crowded:,} images look like over {CROWD} others each; their pairs are listed only from a correlation "
        f"of {SAME}"
    )
    if alike.reach < 0:
        detail = f"over {MAX_PAIRS:,} pairs have the same hash; each image was compared only with the next of its hash"
    elif alike.reach < DISTANCE:
        detail += f"; only pairs whose hashes differ in at most {alike.reach} bits were compared"
    if alike.crops_reach < 0:
        detail += "; crops were not compared"
    elif alike.crops_reach < DISTANCE:
        detail += f"; crops were compared only if their hashes differ in at most {alike.crops_reach} bits"
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
    """Classes that are missing, and classes of very different sizes."""
    if not find_task(examples.task).probabilities:
        return
    train = examples.counts("train")
    for split in dict.fromkeys(["train", *examples.split_names]):
        for name, count in examples.counts(split).items():
            if count == 0 and split == "train":
                yield Finding("empty class", name, "it has no image to train on", True)
            elif count == 0:
                yield Finding("missing class", name, f"it has no image in {split}")
    largest = max(train, key=lambda n: train[n])
    smallest = min(train, key=lambda n: train[n])
    if train[smallest] and train[largest] > IMBALANCE * train[smallest]:
        ratio = f"{train[largest] / train[smallest]:.1f} times as many in {largest}"
        yield Finding(
            "imbalance", smallest, f"{train[smallest]} to train on, {ratio}; training.balance can correct for this"
        )


def _oddities(examples: Examples, inspections: Sequence[Inspection]) -> Iterable[Finding]:
    for key, row in zip(examples.keys, inspections, strict=True):
        for kind, detail in row.odd:
            yield Finding(kind, key, detail)
