"""The search for look-alikes: what it costs, how many copies it finds, and how many innocent images it names.

    python benchmarks/near_duplicates.py [--counts 10000 30000 100000] [--photos flowers240] [--innocent mnist.npz ...]

- cost: seconds and peak memory for N images, 8 N^2 comparisons. The thumbnails are made at random, with one in a
  hundred planted as a look-alike of another: what they look like does not change the cost of comparing every pair.
- copies: of 300 photos of an image folder, each copied in one way and compared with its own copy.
- named: images of a data set that are named as look-alikes of another. In data without copies they are innocent.
"""

import argparse
import csv
import io
import os
import platform
import resource
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kerazoo.startup import start_tensorflow

start_tensorflow()

from kerazoo.pipelines.checks.duplicates import look_alikes, same_pixels  # noqa: E402
from kerazoo.pipelines.checks.inspection import THUMB, Inspection, inspect_contents  # noqa: E402
from kerazoo.pipelines.checks.scan import inspect_all  # noqa: E402
from kerazoo.pipelines.data.load import read_examples  # noqa: E402
from kerazoo.recipes.recipe import data_part  # noqa: E402

PHOTOS = 300


def random_images(count):
    rng = np.random.default_rng(0)
    thumbs = rng.integers(0, 256, (count, THUMB * THUMB * 3)).astype(np.uint8)
    planted = rng.choice(count // 2, count // 100, replace=False)
    thumbs[planted + count // 2] = thumbs[planted] ^ 1
    return [Inspection(pixels=str(i), thumb=thumb.tobytes()) for i, thumb in enumerate(thumbs)], len(planted)


def cropped(image, share, rng, corner):
    """Without `share` of its width and height: all of it at one corner, or half on each side."""
    width, height = image.size
    cut = np.array([width, height]) * share
    left, top = cut * (rng.integers(0, 2, 2) if corner else 0.5)
    return image.crop(tuple(map(round, (left, top, left + width - cut[0], top + height - cut[1]))))


def recolored(image, rng):
    pixels = np.asarray(image.convert("HSV")).copy()
    pixels[..., 0] += rng.integers(64, 192, dtype=np.uint8)
    return Image.fromarray(pixels, "HSV").convert("RGB")


def saved_smaller(image, rng):
    scale = rng.uniform(0.4, 1.3)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


COPIES = {
    "saved again at another size": saved_smaller,
    "black and white": lambda image, rng: image.convert("L"),
    "other hues": recolored,
    "brighter by gamma 0.6": lambda image, rng: image.point([round(255 * (v / 255) ** 0.6) for v in range(256)] * 3),
    "crop of 5 %, centered": lambda image, rng: cropped(image, 0.05, rng, corner=False),
    "crop of 5 %, at a corner": lambda image, rng: cropped(image, 0.05, rng, corner=True),
    "crop of 10 %, centered": lambda image, rng: cropped(image, 0.1, rng, corner=False),
    "mirrored": lambda image, rng: ImageOps.mirror(image),
    "turned by 90, 180 or 270 degrees": lambda image, rng: image.transpose(
        [Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270][rng.integers(3)]
    ),
    "mirrored, turned by 90, saved smaller": lambda image, rng: saved_smaller(
        image.transpose(Image.Transpose.TRANSVERSE), rng
    ),
}


def costs(counts):
    for count in counts:
        found, planted = random_images(count)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        pairs = look_alikes(found).pairs
        seconds = time.perf_counter() - start
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
        print(f"{count:8,} images: {seconds:6.1f} s, {more:5.0f} MB more, {len(pairs)} of {planted} look-alikes")
        cost = {"seconds": round(seconds, 1), "more_memory_mb": round(more)}
        yield {
            "measured": "cost",
            "subject": "random",
            "images": count,
            "planted": planted,
            "found": len(pairs),
            **cost,
        }


def copies(folder):
    rng = np.random.default_rng(0)
    paths = sorted(folder.rglob("*.jpg"))
    chosen = [Image.open(paths[i]).convert("RGB") for i in rng.choice(len(paths), PHOTOS, replace=False)]
    for way, copy in COPIES.items():
        found = sum(is_found([contents(image), contents(copy(image, rng))]) for image in chosen)
        print(f"{found} of {PHOTOS} found: {way}")
        yield {"measured": "copies", "subject": way, "images": PHOTOS, "planted": PHOTOS, "found": found}


def is_found(both):
    return bool(same_pixels(both) or look_alikes(both).pairs)


def contents(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return inspect_contents(file.getvalue(), ".jpg")


def named(source):
    found = inspect_all(read_examples(data_part({"path": str(source)})))
    start = time.perf_counter()
    alike = look_alikes(found)
    seconds = time.perf_counter() - start
    images = {i for pair in alike.pairs for i in (pair.a, pair.b)}
    turned = sum(bool(pair.turned) for pair in alike.pairs)
    print(
        f"{source.name}: {len(images)} of {len(found):,} images named ({len(images) / len(found):.2%}) in "
        f"{len(alike.pairs)} pairs, {turned} of them turned; {alike.crowded:,} images are one of many; {seconds:.1f} s"
    )
    yield {
        "measured": "named", "subject": source.name, "images": len(found), "found": len(images),
        "seconds": round(seconds, 1),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="*", default=[10_000, 30_000, 100_000])
    parser.add_argument("--photos", type=Path, help="an image folder of photos")
    parser.add_argument("--innocent", type=Path, nargs="*", default=[], help="data without copies")
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    rows = [*costs(arguments.counts), *(copies(arguments.photos) if arguments.photos else ())]
    for source in arguments.innocent:
        rows += named(source)
    columns = ["measured", "subject", "images", "planted", "found", "seconds", "more_memory_mb"]
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "numpy": np.__version__}
    with arguments.csv.open("w", newline="") as file:
        table = csv.DictWriter(file, [*columns, *machine], lineterminator="\n")
        table.writeheader()
        table.writerows({**row, **machine} for row in rows)


if __name__ == "__main__":
    main()
