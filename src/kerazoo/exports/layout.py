"""The file names in an export's folder: saved_models/NAME/VERSION/saved_model.pb, and the passport."""

from kerazoo.errors import InputError

PASSPORT = "assets.extra/passport.json"
WARM_UP = "assets.extra/tf_serving_warmup_requests"
SAVED_MODEL = "saved_model.pb"
VARIABLES = "variables/variables"
CLASS_NAMES, STATUS, FEATURES, PREPARED = "class_names", "status", "features", "prepared"  # outputs of signatures
THRESHOLDS = "thresholds"  # the passport's, as in `model.json`
CLASSES, SCORES = "classes", "scores"  # those of `CLASSIFY`, by TensorFlow Serving's names
DEFAULT, SERVE_PREPARED = "serving_default", "serve_prepared"  # signatures
PREPARE, CLASSIFY = "prepare", "classify"
IMAGE_BYTES = "image_bytes"  # the input that takes encoded images
TOP_K = 5  # labels in the outputs of a signature
OK = "ok"  # the status of an image that was answered
# and of others
REFUSED = "not decoded: no image, an animation, or more pixels than a file of its size may announce"
DAMAGED = "not decoded: cut off or damaged, or there is too little memory"
NOT_FINITE = "not answered: its pixels are not all finite numbers"


def check_images(images: int | None) -> None:
    """Raise InputError unless `images` is None, or a number of validation images for the gate."""
    if images is not None and (not isinstance(images, int) or isinstance(images, bool) or images < 1):
        raise InputError(
            f"images={images!r} must be a whole number of at least 1: how many validation images to compare; leave it "
            "out for all of them"
        )


def is_version(name: str) -> bool:
    """Whether a folder's name is a version, which is a whole number."""
    return name.isascii() and name.isdigit() and len(name) <= 18
