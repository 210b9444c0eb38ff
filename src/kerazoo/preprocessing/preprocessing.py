"""Preprocessing: encoded bytes -> image -> resized pixels -> the network's input. The same object is used everywhere.

Training, evaluation and the exported graph call the same methods, so they cannot differ. The graph code is in
`resizing.py`, which runs inside `tf.data` and inside a SavedModel; it is imported on first use.

The order is decode (uint8) -> resize (uint8) -> [augmentation, in training only] -> scale (float32). Resized pixels are
rounded to uint8, as image libraries do, so they can be stored on disk without loss.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from kerazoo.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf


MOST_VALUES = 2**26  # values of one preprocessed image, 268 MB: 4,096 x 4,096 in color
RESIZES = ("stretch", "crop", "pad")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos3", "lanczos5", "area", "nearest")

# the arithmetic of keras.applications.*.preprocess_input, [0, 1], and any other factors and offsets
SCALINGS = ("none", "unit", "tf", "torch", "caffe", "numbers")
LARGEST = 1e6  # limit on a factor or an offset


@dataclass(frozen=True)
class Preprocessing:
    """The conversion of images to a network's input of shape (height, width, channels).

    Encoded images have 1 or 3 channels; arrays of pixels may have any number. `resize` is "stretch" (to the size),
    "crop" (the largest centered part of the right shape) or "pad" (the whole image, with black, to the right shape).
    `interpolation` resizes with antialiasing. `scaling` is one of SCALINGS (see `scale`). `factor` and `offset` are for
    "numbers": one number, or one for each channel.
    """

    height: int
    width: int
    channels: int = 3
    resize: str = "crop"
    interpolation: str = "bilinear"
    scaling: str = "unit"
    factor: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        allowed = {"resize": RESIZES, "interpolation": INTERPOLATIONS, "scaling": SCALINGS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                received = repr(getattr(self, name))
                raise ModelError(f"preprocessing: {name}={received:.60} must be one of {', '.join(map(str, values))}")
        for name in ("height", "width", "channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelError(f"preprocessing: {name}={value!r:.60} must be a whole number of at least 1")
        if self.height * self.width * self.channels > MOST_VALUES:
            raise ModelError(
                f"preprocessing: height x width x channels must be at most {MOST_VALUES:,} values, "
                f"got {self.height:,} x {self.width:,} x {self.channels:,}; use a smaller size"
            )
        for name in ("factor", "offset"):
            object.__setattr__(self, name, self._numbers(name, getattr(self, name)))

    def _numbers(self, name: str, values: Any) -> tuple[float, ...]:
        """The `values` of `factor` or `offset`, checked."""
        counts = {1, self.channels} if self.scaling == "numbers" else {0}
        wanted = " or ".join(map(str, sorted(counts)))
        if not isinstance(values, Sequence) or len(values) not in counts:
            raise ModelError(
                f"preprocessing: {name}={values!r:.60} must have {wanted} numbers with scaling={self.scaling!r}"
            )
        for value in values:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not -LARGEST <= value <= LARGEST:
                raise ModelError(
                    f"preprocessing: {name}={values!r:.60} must have numbers from -{LARGEST:,.0f} to {LARGEST:,.0f}"
                )
        return tuple(float(value) for value in values)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """The object for the values of `to_json`. Raises ModelError."""
        if not isinstance(values, dict):
            raise ModelError(f"preprocessing must be an object, got {values!r:.60}")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ModelError(f"preprocessing: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(known))}")
        missing = sorted({"height", "width"} - set(values))
        if missing:
            raise ModelError(f"preprocessing: there is no {missing[0]}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The fields, as stored in a run and an export; `factor` and `offset` only if the scaling uses them."""
        values = asdict(self)
        own = {name: list(values.pop(name)) for name in ("factor", "offset")}
        return values | own if self.scaling == "numbers" else values

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.height, self.width, self.channels)

    def __call__(self, contents: "tf.Tensor") -> "tf.Tensor":
        """Scalar string of encoded bytes -> (height, width, channels) float32: decode, resize, scale."""
        return self.scale(self.read(contents))

    def prepare(self, image: "tf.Tensor") -> "tf.Tensor":
        """(H, W, C) pixels in [0, 255], any type -> (height, width, channels) float32: resize, then scale."""
        return self.scale(self.resize_pixels(image))

    def decode(self, contents: "tf.Tensor") -> "tf.Tensor":
        """Scalar string of an encoded image -> (H, W, channels) uint8, upright.

        JPEG is decoded with the accurate integer transform, with the same bits as Pillow, including CMYK, and rotated
        by its EXIF orientation. PNG, still GIF, BMP (24 or 32 bits) and WebP are decoded by TensorFlow. Alpha is
        blended with white. Palettes and gray are converted to `channels`. Of 16 bits, the upper 8 are used. Gray is
        ITU-R 601-2 luma, as in Pillow. A color key (PNG's tRNS without a palette) is ignored.
        Raises tf.errors.InvalidArgumentError for other files, and, before decoding, for animations and for images with
        too many pixels or scans (`headers.py`). Raises ModelError if `channels` is neither 1 nor 3.
        """
        self._check_encoded()
        from kerazoo.preprocessing import decoding

        return decoding.decode(contents, self.channels)

    def read(self, contents: "tf.Tensor") -> "tf.Tensor":
        """Scalar string of an encoded image -> (height, width, channels) uint8: decode, resize.

        Large images are decoded and resized one at a time in a process, for any number of threads. Raises as `decode`
        does.
        """
        self._check_encoded()
        from kerazoo.preprocessing import resizing

        return resizing.read(contents, self.shape, self.resize, self.interpolation)

    def resize_decoded(self, pixels: "tf.Tensor") -> "tf.Tensor":
        """(H, W, channels) uint8 from `decode` -> (height, width, channels) uint8, with the same bits as `read`.

        Images of all sizes use one graph; for `resize_pixels` outside of a graph, those of each size have their own.
        """
        from kerazoo.preprocessing import resizing

        return resizing.resize_decoded(pixels, self.shape, self.resize, self.interpolation)

    def _check_encoded(self) -> None:
        if self.channels not in (1, 3):
            raise ModelError(
                f"encoded images have 1 or 3 channels, but {self.channels} are needed; use pixels, (H, W, "
                f"{self.channels}), in an .npz file or an array"
            )

    def resize_pixels(self, image: "tf.Tensor") -> "tf.Tensor":
        """(H, W, C) pixels in [0, 255], any type -> (height, width, channels) uint8.

        Gray is copied to three channels, and RGB is converted to gray by ITU-R 601-2 luma. Any other C must be
        `channels`. Raises ModelError.
        """
        from kerazoo.preprocessing import resizing

        return resizing.resize(image, self.shape, self.resize, self.interpolation)

    def scale(self, image: "tf.Tensor") -> "tf.Tensor":
        """(..., channels) pixels in [0, 255] -> the same shape, float32, in the network's scale.

        "none": [0, 255], for networks with their own scaling layer; "unit": [0, 1]; "tf": [-1, 1]; "torch": [0, 1],
        minus ImageNet's mean, divided by its standard deviation; "caffe": BGR, minus ImageNet's mean; "numbers":
        `factor` * pixel - `offset`. For "torch" and "caffe" with other than three channels, see `scaling.affine`.
        """
        from kerazoo.preprocessing.scaling import scale

        return scale(image, self.affine, reverse=self.reverses)

    @property
    def affine(self) -> "tuple[np.ndarray, np.ndarray]":
        """(a, b) of the scaling a * pixel - b, each one number for all channels or one for each."""
        import numpy as np

        from kerazoo.preprocessing.scaling import affine

        if self.scaling != "numbers":
            return affine(self.scaling, self.channels)
        factor, offset = (np.array(values if len(values) > 1 else values[0]) for values in (self.factor, self.offset))
        return factor, offset

    @property
    def reverses(self) -> bool:
        """Whether the scaling reverses the order of the channels."""
        return self.scaling == "caffe" and self.channels == 3
