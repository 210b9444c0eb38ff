"""Preprocessing: encoded bytes -> image -> resized pixels -> the numbers a network takes. One object, used everywhere.

Training, evaluation and the exported graph call these same methods, so they cannot drift apart. The work is done by
the graph code in `resizing.py`, which runs inside `tf.data` and inside a SavedModel; it is imported on first use.

Order: decode (uint8) -> resize (uint8) -> [augmentation, in training only] -> scale (float32). Resized pixels are
rounded to uint8 as an image library would leave them, so that they can be kept on disk without loss.
"""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from kerazoo.errors import ModelError

if TYPE_CHECKING:
    import tensorflow as tf


MOST_VALUES = 2**26  # of one prepared image, 268 MB: 4,096 x 4,096 in colour
RESIZES = ("stretch", "crop", "pad")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos3", "lanczos5", "area", "nearest")

# the arithmetic of keras.applications.*.preprocess_input, and [0, 1]
SCALINGS = ("none", "unit", "tf", "torch", "caffe")


@dataclass(frozen=True)
class Preprocessing:
    """How images become a network's input of shape (height, width, channels).

    Encoded images have 1 or 3 channels; arrays of pixels may have any number, which is then kept.
    `resize`: "stretch" to the size; "crop" the largest centred part of the right shape; "pad" the whole image with
    black to the right shape. `interpolation` resizes with antialiasing. `scaling` is one of SCALINGS (see `scale`).
    """

    height: int
    width: int
    channels: int = 3
    resize: str = "crop"
    interpolation: str = "bilinear"
    scaling: str = "unit"

    def __post_init__(self) -> None:
        allowed = {"resize": RESIZES, "interpolation": INTERPOLATIONS, "scaling": SCALINGS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                received, choices = repr(getattr(self, name)), ", ".join(map(str, values))
                raise ModelError(f"preprocessing: {name}={received:.60} is not one of {choices}")
        for name in ("height", "width", "channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelError(f"preprocessing: {name}={value!r:.60} must be a whole number of at least 1")
        if self.height * self.width * self.channels > MOST_VALUES:
            raise ModelError(
                f"preprocessing: height x width x channels must be at most {MOST_VALUES:,} values, "
                f"got {self.height:,} x {self.width:,} x {self.channels:,}; take a smaller size"
            )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """The object that `to_json` described."""
        if not isinstance(values, dict):
            raise ModelError(f"preprocessing must be an object, got {values!r:.60}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ModelError(f"preprocessing: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if missing := sorted({"height", "width"} - set(values)):
            raise ModelError(f"preprocessing: there is no {missing[0]}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Its fields, as they are stored with a run and an export."""
        return asdict(self)

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

        JPEG by the accurate integer transform, bit-identical to Pillow, CMYK included, and turned as its EXIF
        orientation says; PNG, GIF (a still one), BMP (24 or 32 bits) and WebP through TensorFlow. Alpha is laid over
        white, palettes and grey become what `channels` asks for, 16 bits keep the upper 8. Grey is ITU-R 601-2 luma,
        as in Pillow. A colour key (PNG's tRNS without a palette) counts for opaque.
        Raises tf.errors.InvalidArgumentError for anything else, and, before it decodes, for what costs too much
        (`headers.py`): animations, sizes, scans. Raises ModelError where `channels` is neither 1 nor 3.
        """
        self._check_encoded()
        from kerazoo.preprocessing import decoding

        return decoding.decode(contents, self.channels)

    def read(self, contents: "tf.Tensor") -> "tf.Tensor":
        """Scalar string of an encoded image -> (height, width, channels) uint8: decode, resize.

        Large images are decoded and fitted one at a time in a process, whatever the number of threads. Raises what
        `decode` does.
        """
        self._check_encoded()
        from kerazoo.preprocessing import resizing

        return resizing.read(contents, self.shape, self.resize, self.interpolation)

    def _check_encoded(self) -> None:
        if self.channels not in (1, 3):
            raise ModelError(
                f"encoded images have 1 or 3 channels, and this takes {self.channels}: give it pixels, (H, W, "
                f"{self.channels}) in an .npz file or an array"
            )

    def resize_pixels(self, image: "tf.Tensor") -> "tf.Tensor":
        """(H, W, C) pixels in [0, 255], any type -> (height, width, channels) uint8.

        Grey and colours turn into one another (copied; ITU-R 601-2 luma); any other C must be `channels`, or it raises
        ModelError.
        """
        from kerazoo.preprocessing import resizing

        return resizing.resize(image, self.shape, self.resize, self.interpolation)

    def scale(self, image: "tf.Tensor") -> "tf.Tensor":
        """(..., channels) pixels in [0, 255] -> the same shape, float32, as the network wants them.

        "none": [0, 255], for networks that scale inside; "unit": [0, 1]; "tf": [-1, 1]; "torch": [0, 1], less
        ImageNet's mean, over its standard deviation; "caffe": BGR, less ImageNet's mean. The last two, for other
        channels than three: see `scaling.affine`.
        """
        from kerazoo.preprocessing.scaling import scale

        return scale(image, self.scaling)
