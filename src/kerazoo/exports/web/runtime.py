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
MODULE, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
# {file in the package: beside the page}; web servers know the type of .js, and not all of them that of .mjs
FILES = {MODULE: "onnxruntime/ort.js", BINARY: f"onnxruntime/{BINARY}"}
HOST = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"
SECONDS = 600  # for a package of 33 MB


def write_runtime(folder: Path) -> str:
    """Write the runtime below `folder`, and return the URL of its module, relative to the page.

    Without npm nothing is written, and the URL is one of a public host of npm's packages. Raises KerazooError if npm
    does not get the package.
    """
    npm = shutil.which("npm")
    if npm is None:
        return f"{HOST}{MODULE}"
    with tempfile.TemporaryDirectory(prefix="kerazoo-") as temporary:
        package = _packed(npm, Path(temporary))
        found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        if found != SHA512:
            raise KerazooError(
                f"npm's {PACKAGE} {VERSION} has the sha512 {found}, and should have {SHA512}; look at the registry "
                "that npm is set to (npm config get registry), or leave the format web out"
            )
        with tarfile.open(package) as archive:
            for name, place in FILES.items():
                (folder / place).parent.mkdir(exist_ok=True)
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None  # the contents are known by their hash
                write_whole(folder / place, member.read())
    return f"./{FILES[MODULE]}"


def _packed(npm: str, folder: Path) -> Path:
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
        reason = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        whole = done.returncode == 0
    except subprocess.TimeoutExpired:
        reason, whole = f"it did not end in {SECONDS} s", False
    except OSError as error:
        reason, whole = f"{npm} cannot be started ({error.strerror})", False
    package = next(folder.glob("*.tgz"), None)
    if package is None or not whole:
        raise KerazooError(
            f"npm cannot get {PACKAGE} {VERSION}: {reason}; try again with a connection to its registry, or leave the "
            "format web out"
        )
    return package
