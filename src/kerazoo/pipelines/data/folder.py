"""Read an image folder: `CLASS/image`, or `train|val|test/CLASS/image` (`folder_layout.py` decides which)."""

from pathlib import Path

import numpy as np

from kerazoo.errors import DataError
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.data.file_names import SUFFIXES, image_files, is_image, readable, undecodable, why_left_out
from kerazoo.pipelines.data.folder_layout import folders, split_folders, unlabelled


def read(root: Path) -> Examples:
    """The images below `root`, in order of name. Raises DataError, which names the wrong folder."""
    parts = split_folders(root)
    class_names = tuple(p.name for p in folders(parts["train"]) if p not in parts.values())
    rows: list[tuple[str, int, str, str]] = []
    left_out: dict[str, str] = {}
    for split, folder in parts.items():
        unlabelled_count = unlabelled(folder, class_names) if split == "test" else 0
        if unlabelled_count:
            left_out[readable(folder.relative_to(root))] = (
                f"a test set of {unlabelled_count:,} images without labels; use `kerazoo predict RUN {folder}` for them"
            )
            continue
        loose = [p for p in sorted(folder.iterdir()) if not p.is_dir() and p.name[0] != "."]
        left_out |= {
            readable(p.relative_to(root)): "it is not in the folder of a class" if is_image(p) else why_left_out(p)
            for p in loose
            if not p.name.startswith("kerazoo-")
        }
        before = len(rows)
        for child in folders(folder):
            if child in parts.values():
                continue
            if child.name not in class_names:
                raise DataError(f"class {child.name!r} is in {folder} but not in {parts['train']}")
            images, other_files = image_files(child)
            unusable = undecodable(other_files)
            if not images and unusable:
                raise DataError(f"{child} has no images that can be used{unusable}")
            left_out |= {readable(p.relative_to(root)): why_left_out(p) for p in other_files}
            for p in sorted(p for p in child.rglob("*") if p.is_dir()):
                if p.is_symlink():
                    left_out[readable(p.relative_to(root))] = "it is a link to a folder, which is not followed"
                elif is_image(p):
                    left_out[readable(p.relative_to(root))] = "it is a folder; the images in it are used"
            label = class_names.index(child.name)
            rows += [(readable(p.relative_to(root)), label, split, str(p)) for p in images]
        if len(rows) == before:
            endings = ", ".join(SUFFIXES)
            raise DataError(
                f"{folder} has no images in class folders; the extensions of images are {endings}{undecodable(loose)}"
            )
    keys, labels, splits, paths = zip(*rows, strict=True)
    return Examples(
        str(root), keys, np.array(labels, np.int64), np.array(splits), tuple(map(readable, class_names)), paths=paths,
        left_out=left_out,
    )  # fmt: skip
