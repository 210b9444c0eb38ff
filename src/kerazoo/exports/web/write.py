"""Write the folder of the format `web`: the page, the network as an ONNX file, and ONNX Runtime for browsers."""

from pathlib import Path
from typing import TYPE_CHECKING

from kerazoo.errors import GateError
from kerazoo.exports.formats.onnx_files import to_onnx
from kerazoo.exports.formats.reference import ALWAYS, MOST, PER_BYTE
from kerazoo.exports.web.runtime import HOST, write_runtime
from kerazoo.files import write_json, write_whole
from kerazoo.tasks.task import find_task

if TYPE_CHECKING:
    import keras

    from kerazoo.models.description import ModelSpec

PAGE = Path(__file__).with_name("page")
COPIED = ("page.css", "page.js", "classify.js")


def write_web(path: Path, spec: "ModelSpec", model: "keras.Model") -> None:
    """Write the network at `path`, and beside it all that a static server needs.

    Raises GateError if no encoded image has the network's channels, KerazooError if npm does not get the runtime.
    """
    channels = spec.preprocessing.channels
    if channels not in (1, 3):
        raise GateError(
            f"format web is for encoded images, and this network is for {channels} channels; leave the format out"
        )
    folder = path.parent
    runtime = write_runtime(folder)
    write_whole(path, to_onnx(spec, model, "pixels").SerializeToString())
    for name in COPIED:
        write_whole(folder / name, (PAGE / name).read_bytes())
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    write_whole(folder / "index.html", page.replace("{host}", f" {HOST}" if runtime.startswith(HOST) else ""))
    settings = {
        "class_names": list(spec.class_names), "channels": channels, "runtime": runtime,
        "always": ALWAYS, "per_byte": PER_BYTE, "most": MOST, "probabilities": find_task(spec.task).probabilities,
    }  # fmt: skip
    write_json(folder / "model.json", settings)
