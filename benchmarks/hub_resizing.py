"""How pixels and features differ between the resizing of kerazoo, keras-hub and Pillow.

    python benchmarks/hub_resizing.py PHOTOS

PHOTOS is a folder of JPEG files; the first 60 are used. The backbone is a ViT with random weights. The table is in
docs/decisions/0017-keras-hub.md.
"""

import sys
import tempfile
from pathlib import Path

import keras
import keras_hub
import numpy as np
from PIL import Image

import kerazoo

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def main(photos: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))[:60]
    print("size interpolation ours-hub ours-Pillow hub-Pillow features")
    for size in (32, 112, 224):
        for interpolation in PILLOW:
            print(size, interpolation, *(f"{value:.3f}" for value in differences(files, size, interpolation)))


def differences(files: list[Path], size: int, interpolation: str) -> tuple[float, ...]:
    keras.utils.set_random_seed(1)
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(size, size, 3),
        patch_size=16 if size > 32 else 8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
    )
    converter = keras_hub.layers.ImageConverter(
        image_size=(size, size), scale=list(1 / 255 / STD), offset=list(-MEAN / STD), interpolation=interpolation
    )
    with tempfile.TemporaryDirectory() as folder:
        backbone.save_to_preset(folder)
        converter.save_to_preset(folder)
        preprocessing = kerazoo.describe(f"hub:{folder}").preprocessing()
    rows, ours, theirs = [], [], []
    for file in files:
        image = np.asarray(Image.open(file).convert("RGB"))
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        part = Image.fromarray(image[top : top + side, left : left + side])
        pillow = np.asarray(part.resize((size, size), PILLOW[interpolation]), np.float32)
        ours.append(np.asarray(preprocessing.prepare(image)))
        theirs.append(np.asarray(converter(image)))
        by_us, by_hub = ((pixels * STD + MEAN) * 255 for pixels in (ours[-1], theirs[-1]))
        rows.append([np.abs(a - b).mean() for a, b in ((by_us, by_hub), (by_us, pillow), (by_hub, pillow))])
    first, second = (backbone.predict(np.stack(pixels), verbose=0)[:, 0] for pixels in (ours, theirs))
    return (*np.mean(rows, axis=0), float(np.abs(first - second).mean() / second.std(0).mean()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
