"""The limits of a server: what a request may have, how many are taken at once, and how images are batched."""

from dataclasses import dataclass, fields

from kerazoo.errors import InputError

RANGES = {  # {field: (least, largest, unit)}
    "max_batch": (1, 1024, "images"),
    "batch_timeout_ms": (0, 10_000, "milliseconds"),
    "max_pixels": (10_000, 120_000_000, "pixels"),
    "max_body": (1_000, 2_000_000_000, "bytes"),
    "queue": (1, 100_000, "images"),
}


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    `max_batch` is the largest number of images that the network gets at once. The first of them waits at most
    `batch_timeout_ms` for others; with 0, a batch has what came while the last one was computed. `max_pixels` is the
    largest number of pixels of an image, by its header. `max_body` is the largest body of a request, in bytes, and
    `queue` the number of images in all requests that wait or are answered at a time.

    Raises InputError for a value that is out of range.
    """

    max_batch: int = 32
    batch_timeout_ms: float = 0.0
    max_pixels: int = 35_000_000
    max_body: int = 32_000_000
    queue: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least, largest, unit = RANGES[field.name]
            kinds = (int, float) if field.type == "float" or field.type is float else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= largest:
                raise InputError(
                    f"{field.name}={value!r} must be {least:,} to {largest:,} {unit}, by default {field.default:,}"
                )
