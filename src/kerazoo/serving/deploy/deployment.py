"""What is deployed, and what the files of all targets share."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from kerazoo.exports.layout import SAVED_MODEL, VARIABLES

# The newest version known when this was written. The graph is one of TensorFlow 2.21; older images may lack operations.
SERVING_VERSION = "2.20.0"
IMAGE = f"tensorflow/serving:{SERVING_VERSION}"
SERVER = "/usr/bin/tensorflow_model_server"
USER = 1000  # the image names no user and would run as root; KServe runs it as 1000, too
GRPC_PORT = 8500
REST_PORT = 8501
BASE_MEMORY = 1024  # MiB for the server, the graph and the images of a batch
WEIGHTS_IN_MEMORY = 4  # two versions while one replaces the other, each with its file in the page cache
MEMORY_STEP = 256  # MiB


@dataclass(frozen=True)
class Deployment:
    """An export, and how to run it."""

    export: Path  # the folder with the versions, absolute
    version: int | None  # the only version to serve; None for the newest
    name: str  # the name in Docker Compose and Kubernetes
    memory: int  # MiB
    cpus: int | None
    claim: str  # the PersistentVolumeClaim that contains the export
    storage_uri: str  # where KServe finds the export

    @property
    def model(self) -> str:
        """The name that clients of TensorFlow Serving use, which is that of the export."""
        return self.export.name

    @property
    def address(self) -> str:
        """The path of the model's REST API, with unusual characters as %XX."""
        return f"/v1/models/{quote(self.model, safe='')}"

    @property
    def ready(self) -> str:
        """The path that answers 200 only when a version can be used. `address` itself answers 200 in every state."""
        return f"{self.address}/metadata"


def memory_for(version: Path) -> int:
    """The memory limit for an export's `version`, in MiB: 1024 + 4 x weights, rounded up to 256. Raises OSError."""
    files = [version / SAVED_MODEL, *(version / VARIABLES).parent.rglob("*")]
    weights = sum(path.stat().st_size for path in files if path.is_file()) / 2**20
    return MEMORY_STEP * math.ceil((BASE_MEMORY + WEIGHTS_IN_MEMORY * weights) / MEMORY_STEP)


def quoted(text: str) -> str:
    """`text`, which is printable, as a string of JSON, YAML and protocol buffers, which write such strings alike."""
    return json.dumps(text, ensure_ascii=False)
