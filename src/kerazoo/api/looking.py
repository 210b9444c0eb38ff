"""Where a network looks, and what its layers make of an image."""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.api.runs import open_run
from kerazoo.api.settings import PathLike, path_of
from kerazoo.errors import DataError, InputError
from kerazoo.files import write_whole
from kerazoo.preprocessing.image_files import read_encoded
from kerazoo.startup import start_tensorflow

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kerazoo.api.run import Run
    from kerazoo.serving.run_network import RunNetwork

MAPS = "feature-maps"  # the default folder of sheets


def grad_cam(
    model: "keras.Model", images: Any, *, classes: int | Sequence[int] | None = None, layer: str | None = None,
    method: str = "grad-cam",
) -> "np.ndarray":  # fmt: skip
    """How much each position of a layer speaks for a class: Grad-CAM (Selvaraju et al. 2017) or Grad-CAM++.

    Args:
        model: Any Keras model with one output, (B, K): functional, Sequential, subclassed or nested. It is not changed.
        images: (B, H, W, C), prepared as the model takes them.
        classes: Numbers of outputs, one for all images or one for each; by default the largest output of each image. A
            last softmax or sigmoid is left out, because behind it gradients vanish for sure answers.
        layer: The name of a layer that gives feature maps; by default the last one with more than one position.
        method: "grad-cam" or "grad-cam++" (Chattopadhyay et al. 2018), which has more heat on several objects.

    Returns:
        (B, h, w) float32 in [0, 1]; 0 everywhere if nothing speaks for the class.

    Raises:
        ModelError: if no layer gives feature maps, or a name or number is wrong.

    Example:
    ```python
    import numpy as np

    model = kerazoo.build("resnet20", num_classes=3)
    heat = kerazoo.grad_cam(model, np.zeros((1, 32, 32, 3), "float32"), classes=2)  # (1, 8, 8)
    ```
    """
    start_tensorflow()
    from kerazoo.insight.grad_cam import grad_cam as look

    return look(model, images, classes=classes, layer=layer, method=method)


@dataclass(frozen=True)
class Looked:
    """A picture of one image: what it is of, and where it is; or why there is none (`error`)."""

    file: Path
    label: str = ""
    picture: Path | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {key: str(value) for key, value in asdict(self).items() if value}

    def line(self) -> str:
        """One line for people."""
        return f"{self.file}  {self.error or f'{self.label}  {self.picture}'}"


def draw_grad_cam(
    run: "PathLike | Run", images: PathLike | Sequence[PathLike], *, output: PathLike = "grad-cam",
    label: str | None = None, layer: str | None = None, method: str = "grad-cam",
) -> Iterator[Looked]:  # fmt: skip
    """Draw where a run's network looks in images, as PNG files.

    Args:
        run: A run, its folder, or its name under runs/.
        images: Files, or folders that are read through.
        output: The folder of the pictures, which is made; `FILE.grad-cam.png` for each image.
        label: The class that the heat is for; by default the most probable of each image.
        layer: As in `grad_cam`.
        method: As in `grad_cam`.

    Returns:
        A `Looked` for each file, in order. One that cannot be decoded has an `error`.

    Raises:
        RunError: if there is no such run, or a file of it was changed.
        InputError: if the run has no such class, or no such layer.
        DataError: if a file or a folder is missing.

    Example:
    ```python
    for looked in kerazoo.api.draw_grad_cam("first", "photos/circle"):
        print(looked.line())
    ```
    """
    from kerazoo.serving.predict import find_files

    folder = open_run(path_of(run)).folder
    files = find_files([images] if isinstance(images, str | Path) else images)
    start_tensorflow()
    from kerazoo.insight.grad_cam import METHODS
    from kerazoo.serving.run_network import RunNetwork

    if method not in METHODS:
        raise InputError(f"method must be {' or '.join(METHODS)}, got {method!r:.40}")
    network = RunNetwork(folder)
    number = None if label is None else network.number_of(label)
    return _looked(network, files, Path(output), number, layer, method)


def _looked(
    network: "RunNetwork", files: Sequence[Path], output: Path, number: int | None, layer: str | None, method: str
) -> Iterator[Looked]:
    from kerazoo.insight.grad_cam import overlay

    output.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    for file in files:
        try:
            pixels = network.read(read_encoded(file))
        except DataError as error:
            yield Looked(file, error=str(error))
            continue
        prepared = network.prepared(pixels)
        chosen = network.answer(prepared) if number is None else number
        heat = network.heat(prepared, chosen, layer=layer, method=method)
        again = taken.get(file.stem, 0)
        taken[file.stem] = again + 1
        picture = output / f"{file.stem}{f'-{again + 1}' if again else ''}.{method}.png"
        zoom = network.zoom
        write_whole(picture, png_of(overlay(pixels.repeat(zoom, axis=0).repeat(zoom, axis=1), heat)))
        yield Looked(file, network.spec.class_names[chosen], picture)


def draw_feature_maps(
    run: "PathLike | Run", image: PathLike, *, output: PathLike = MAPS, layers: Sequence[str] | None = None
) -> list[Path]:
    """Draw what the layers of a run's network make of an image: a sheet for each layer, as PNG files.

    Each sheet has the layer's name, up to 64 maps with the same colors, and the values of the colors. Beside them are
    `filters.png`, the filters of the first convolution, and, of a vision transformer, `attention.png`: attention
    rollout (Abnar & Zuidema 2020), what each patch gives to the answer.

    Args:
        run: A run, its folder, or its name under runs/.
        image: An image file.
        output: The folder of the sheets, which is made.
        layers: Names of layers; by default the last one at each size of the feature map.

    Returns:
        The files.

    Raises:
        RunError: if there is no such run, or a file of it was changed.
        ModelError: if there is no such layer, or no layer gives feature maps.
        DataError: if the image cannot be decoded.

    Example:
    ```python
    kerazoo.api.draw_feature_maps("first", "photos/circle/00.png")
    ```
    """
    folder = open_run(path_of(run)).folder
    content = read_encoded_of(Path(image))
    start_tensorflow()
    from kerazoo.insight.map_files import sheets_of
    from kerazoo.models.answering import trained_networks
    from kerazoo.serving.run_network import RunNetwork

    network = RunNetwork(folder)
    try:
        pixels = network.read(content)
    except DataError as error:
        raise DataError(f"{image}: {error}") from error
    [(first, _), *_] = trained_networks(network.spec, network.network)
    sheets = sheets_of(first, network.prepared(pixels), layers, pixels)
    target = Path(output)
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for name, sheet in sheets.items():
        files.append(target / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.png")
        write_whole(files[-1], png_of(sheet))
    return files


def read_encoded_of(path: Path) -> bytes:
    """The bytes of an image file. Raises DataError, which names the file."""
    try:
        return read_encoded(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def png_of(pixels: "np.ndarray") -> bytes:
    """A PNG of (H, W, 3) uint8."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
