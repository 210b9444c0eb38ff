"""The formats of an export beside the SavedModel: their files, what they take, and what they may lose."""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from kerazoo.errors import GateError, InputError
from kerazoo.exports.web.chromium import find_browser

REFERENCE = "preprocessing/reference.py"
SETTINGS = "preprocessing/preprocessing.json"


@dataclass(frozen=True)
class Format:
    """A format by `name`: the `file` of its model, below the export, and the installed `packages` that it needs.

    `takes` is the kind of its input, see `portable.inputs_of`. `tolerance` is the largest difference of an answer from
    the evaluated model's, in probability, or relative for numbers over 1, beside what rounding of pixels does; the
    class must be the same. Without one, as of integers, answers may differ. In any case the share of right answers on
    validation may fall by at most `LOSS`, or by one answer.
    """

    name: str
    file: str
    takes: str
    extra: str
    packages: tuple[str, ...]
    engine: str  # the package that runs it, or `BROWSER`
    tolerance: float | None = 0.005

    @property
    def folder(self) -> str:
        """The folder below the export that has all its files."""
        return self.file.split("/")[0]


_ONNX = ("onnx", "tf2onnx", "onnxruntime")
BROWSER = "browser"  # the engine of the format `web`, which is no package
_LITERT = ("ai_edge_litert",)
LOSS = 0.02  # a share of right answers: two points
_ALL = (
    Format("onnx", "onnx/model.onnx", "pixels", "onnx", _ONNX, "onnxruntime"),
    Format("onnx-int8", "onnx-int8/model.onnx", "fitted", "onnx", _ONNX, "onnxruntime", None),
    Format("litert", "litert/model.tflite", "fitted", "litert", _LITERT, "ai_edge_litert"),
    Format("litert-float16", "litert-float16/model.tflite", "fitted", "litert", _LITERT, "ai_edge_litert", 0.05),
    Format("litert-dynamic", "litert-dynamic/model.tflite", "fitted", "litert", _LITERT, "ai_edge_litert", None),
    Format("litert-int8", "litert-int8/model.tflite", "fitted", "litert", _LITERT, "ai_edge_litert", None),
    Format("openvino", "openvino/model.xml", "pixels", "openvino", ("openvino",), "openvino"),
    Format("openvino-int8", "openvino-int8/model.xml", "fitted", "openvino", ("openvino", "nncf"), "openvino",
           None),
    Format("web", "web/model.onnx", "pixels", "onnx", ("onnx", "tf2onnx"), BROWSER),
)  # fmt: skip
FORMATS = {one.name: one for one in _ALL}
SAVED_MODEL_FORMAT = "saved_model"  # every export has it


def find_formats(names: Iterable[str] | str, *, needed: bool = True) -> list[Format]:
    """The formats of these names, or of one text with commas, without `saved_model` and what is named twice.

    Raises InputError for an unknown name, and with `needed` if what writes a format, or a browser, is not installed.
    """
    given = names.split(",") if isinstance(names, str) else list(names)
    found: dict[str, Format] = {}
    for name in given:
        stripped = name.strip() if isinstance(name, str) else name
        if stripped == SAVED_MODEL_FORMAT:
            continue
        if stripped not in FORMATS:
            raise InputError(f"format {stripped!r:.60} must be one of {SAVED_MODEL_FORMAT}, {', '.join(FORMATS)}")
        found[stripped] = FORMATS[stripped]
    for one in found.values() if needed else ():
        check_installed(one, one.packages)
        if one.engine == BROWSER:
            find_browser()
    return list(found.values())


def check_installed(one: Format, packages: Iterable[str]) -> None:
    """Raise InputError if one of `packages` is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"format {one.name!r} needs {package}, which is not installed; run pip install 'kerazoo[{one.extra}]'"
            )


def check_quantized(name: str, count: int) -> None:
    """Raise GateError if no operation or weight of a format has integers."""
    if not count:
        raise GateError(f"format {name!r}: nothing in the network could be quantized; leave the format out")
