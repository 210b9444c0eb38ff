"""The anatomy of models: of the zoo, of a run, of a file, or a Keras model of one's own."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.api.looking import png_of, read_encoded_of
from kerazoo.api.settings import PathLike
from kerazoo.errors import InputError, ModelError
from kerazoo.files import write_whole
from kerazoo.insight.convolution_costs import Chain as Chain
from kerazoo.insight.convolution_costs import compare_chains
from kerazoo.models import registry
from kerazoo.models.hub.presets import PREFIX
from kerazoo.runs.run import Run, folder_of, open_run
from kerazoo.startup import start_tensorflow

if TYPE_CHECKING:
    import keras

    from kerazoo.insight.anatomy import Anatomy as Anatomy
    from kerazoo.insight.anatomy import LayerAnatomy as LayerAnatomy

Size = int | tuple[int, ...]
FILES = (".json", ".keras")


def anatomy(model: "keras.Model | Run | PathLike", *, input_size: Size | None = None) -> "Anatomy":
    """Output size, parameters, MACs, activation memory and receptive field of each layer of a model.

    Nothing is computed and no weights are loaded. A MAC is a multiply-accumulate operation, two FLOPs. The receptive
    field is the pixels that a position can depend on; where a layer's is not known, it says why.

    Args:
        model: A `keras.Model`, which is not changed; a name of `list_models()`; a run, or its folder or name; or a file
            that describes an architecture: what `model.to_json()` gives (.json), or a .keras file, whose weights are
            not read.
        input_size: Height and width of the image in px: one number, (H, W), or (H, W, C). The default is the model's
            own.

    Returns:
        `Anatomy` with `layers`, the sums `parameters`, `trainable`, `macs` and `activation_bytes`, and `last_map`, the
        last layer whose positions see different pixels; `layer(name)` and `to_json()`.

    Raises:
        ModelError: if there is no such model, or it cannot take images of this size.
        RunError: if a run did not finish.

    Example:
    ```python
    resnet = kerazoo.anatomy("resnet50")
    resnet.macs, resnet.last_map.field.text()  # 3857973248, "483"
    ```
    """
    return _Subject.of(model, input_size).anatomy()


@dataclass(frozen=True)
class DrawnField:
    """A drawn receptive field: the layer, the position in it, and what that position sees in pixels of the input.

    Rows are top ... bottom - 1, columns left ... right - 1; where they are outside of the image, there is padding.
    """

    layer: str
    unit: tuple[int, int]
    top: int
    left: int
    bottom: int
    right: int
    picture: Path

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "unit": list(self.unit), "picture": str(self.picture)}

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.layer}, position {self.unit[0]},{self.unit[1]}: rows {self.top} to {self.bottom - 1}, columns "
            f"{self.left} to {self.right - 1}; drawn: {self.picture}"
        )


def draw_receptive_field(
    model: "keras.Model | Run | PathLike", image: PathLike, picture: PathLike, *, layer: str | None = None,
    unit: tuple[int, int] | None = None, input_size: Size | None = None,
) -> DrawnField:  # fmt: skip
    """Draw what one position of a layer can see of an image, as a PNG.

    Args:
        model: As in `anatomy`.
        image: An image file; it is resized as the model's images are.
        picture: The PNG to write.
        layer: A layer of the anatomy; by default `last_map`.
        unit: (row, column) of the position, from 0; by default the middle one.
        input_size: As in `anatomy`.

    Returns:
        `DrawnField`.

    Raises:
        ModelError: as in `anatomy`, if there is no such layer or position, or if its receptive field is not known.
        DataError: if the image cannot be read.

    Example:
    ```python
    kerazoo.api.draw_receptive_field("resnet50", "photos/circle/00.png", "field.png", layer="conv3_block4_out")
    ```
    """
    picture = Path(picture)
    if picture.suffix.lower() != ".png" or not picture.parent.is_dir():
        raise InputError(f"the picture {picture} must be a .png file in a folder that exists")
    subject = _Subject.of(model, input_size)
    rows = subject.anatomy()
    row = rows.last_map if layer is None else rows.layer(layer)
    if row is None:
        raise ModelError(f"no layer of {rows.model} has positions that see different pixels; name one by its name")
    content = read_encoded_of(Path(image))
    from kerazoo.insight.field_picture import box_of, draw_field

    middle = tuple(axis.count // 2 for axis in row.field.axes[:2])
    place = unit or (middle if len(middle) == 2 else (0, 0))
    box = box_of(row.field, place, row.name)
    pixels = subject.pixels(content, rows.input_shape, image)
    write_whole(picture, png_of(draw_field(pixels, box)))
    return DrawnField(row.name, place, box.top, box.left, box.bottom, box.right, picture)


def compare_convolutions(chains: str, *, channels: int = 256, size: int = 56) -> list[Chain]:
    """Weights, MACs and receptive fields of chains of convolutions, as "3x3+3x3,1x1+3x3+1x1".

    Args:
        chains: Chains with commas between them; see `insight/convolution_costs.py`.
        channels: The channels that go into each chain and come out of it.
        size: The side of the feature maps.

    Returns:
        A `Chain` for each, with `weights`, `macs` and `receptive_field`.

    Raises:
        InputError: if the text is no such list.

    Example:
    ```python
    [chain.weights for chain in kerazoo.api.compare_convolutions("3x3+3x3,1x1+3x3+1x1")]  # [1179648, 69632]
    ```
    """
    return compare_chains(chains, channels=channels, size=size)


@dataclass(frozen=True)
class _Subject:
    """What is inspected: a model at hand, or how to build one; and how its images are resized."""

    model: Any
    input_size: Size | None
    name: str = ""
    arguments: Any = None
    resize: str = "crop"

    @classmethod
    def of(cls, model: Any, input_size: Size | None) -> "_Subject":
        """The subject that `model` names. Raises ModelError and RunError, before TensorFlow starts if it can."""
        size = (input_size, input_size) if isinstance(input_size, int) else input_size
        if isinstance(model, str | Path) and str(model).endswith(FILES):
            _check_file(Path(model))
            start_tensorflow()
            from kerazoo.models.architecture_file import load_architecture

            return cls(load_architecture(model), size)
        if isinstance(model, Run) or (isinstance(model, str | Path) and not _is_name(str(model))):
            spec = (model if isinstance(model, Run) else open_run(str(model))).spec
            arguments = dict(spec.arguments)
            return cls(
                None, size, spec.name, arguments | _shape(size, spec.preprocessing.channels), spec.preprocessing.resize
            )
        if isinstance(model, str | Path):
            entry = registry.find(str(model))
            channels = entry.input_shape[2] if size else 0
            return cls(None, size, str(model), _shape(size, channels), entry.resize)
        start_tensorflow()
        import keras

        if not isinstance(model, keras.Model):
            raise ModelError(f"model must be a keras.Model, a name, a run or a file, got {type(model).__name__}")
        return cls(model, size)

    def anatomy(self) -> "Anatomy":
        """The anatomy; a network of the zoo is built without values of its weights."""
        start_tensorflow()
        from kerazoo.insight.anatomy import anatomy_of
        from kerazoo.keras_private import without_variables

        if self.model is not None:
            return anatomy_of(self.model, self.input_size)
        with without_variables():
            return anatomy_of(registry.construct(self.name, **self.arguments))

    def pixels(self, content: bytes, shape: tuple[int, ...], image: PathLike) -> Any:
        """(H, W, 3) uint8 of an encoded image, as the network gets it. Raises DataError."""
        import tensorflow as tf

        from kerazoo.errors import DataError
        from kerazoo.preprocessing.decoding import reason_of
        from kerazoo.preprocessing.preprocessing import Preprocessing

        preprocessing = Preprocessing(shape[0], shape[1], 3, resize=self.resize)
        try:
            return preprocessing.read(tf.constant(content, tf.string)).numpy()
        except tf.errors.OpError as error:
            raise DataError(f"{image} cannot be decoded: {reason_of(error)}") from error


def _is_name(text: str) -> bool:
    """Whether it is the name of a model, or must be: what is neither a file nor a run is searched among the names."""
    if text.startswith(PREFIX) or text in registry.list_models():
        return True
    return not text.endswith(FILES) and not folder_of(text).exists() and "/" not in text


def _shape(size: Any, channels: int) -> dict[str, Any]:
    """The argument `input_shape` of a builder, if a size is given."""
    if size is None:
        return {}
    return {"input_shape": tuple(size) if len(size) == 3 else (*size, channels)}


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"there is no file {path}; name a model, a run, or a file that model.to_json() made")
