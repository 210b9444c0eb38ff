"""ONNX Runtime for browsers: vendored from the npm registry, or named by a URL where there is no npm."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from kerazoo.errors import KerazooError
from kerazoo.files import write_whole

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # of the registry
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
HOST = "https://cdn.jsdelivr.net"
FOLDER = "onnxruntime"
SECONDS = 600  # for a package of 33 MB


def write_runtime(folder: Path) -> str:
    """Write the runtime below `folder`, and return its URL, which is relative to the page and ends with a slash.

    Without npm nothing is written, and the URL is that of a public host of npm's packages. Raises KerazooError if npm
    does not get the package.
    """
    npm = shutil.which("npm")
    if npm is None:
        return f"{HOST}/npm/{PACKAGE}@{VERSION}/dist/"
    with tempfile.TemporaryDirectory(prefix="kerazoo-") as temporary:
        package = _packed(npm, Path(temporary))
        found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        if found != SHA512:
            raise KerazooError(
                f"npm's {PACKAGE} {VERSION} has the sha512 {found}, and should have {SHA512}; look at the registry "
                "that npm is set to (npm config get registry), or leave the format web out"
            )
        (folder / FOLDER).mkdir()
        with tarfile.open(package) as archive:
            for name in FILES:
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None  # the contents are known by their hash
                write_whole(folder / FOLDER / name, member.read())
    return f"./{FOLDER}/"


def _packed(npm: str, folder: Path) -> Path:
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
        reason = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
    except subprocess.TimeoutExpired:
        reason = f"it did not end in {SECONDS} s"
    package = next(folder.glob("*.tgz"), None)
    if package is None:
        raise KerazooError(
            f"npm cannot get {PACKAGE} {VERSION}: {reason}; try again with a connection to its registry, or leave the "
            "format web out"
        )
    return package
