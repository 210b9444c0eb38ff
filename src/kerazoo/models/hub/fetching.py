"""Fetch the files of a preset with the libraries of Hugging Face and Kaggle, which check, continue and cache them.

They go where their environment variables say: HF_ENDPOINT and HF_HOME; KAGGLEHUB_CACHE; HTTPS_PROXY for both.
"""

import logging
import re
import sys
from pathlib import Path

from kerazoo.errors import WeightsError
from kerazoo.files import FULL, locked, sha256
from kerazoo.models.hub import presets

log = logging.getLogger("kerazoo")

LFS = re.compile("[0-9a-f]{64}")  # Hugging Face names files in its cache by this hash of their content


def preset_folder(preset: str) -> Path:
    """The folder of `preset`, fetched if it is not on this machine. Raises ModelError, WeightsError."""
    folder = presets.find_preset(preset)
    if folder is not None:
        return folder
    with locked(presets.record_path(preset).with_suffix(".lock"), wait=True):
        folder = presets.find_preset(preset)  # another process may have fetched it
        if folder is None:
            table = presets.table()
            folder = fetch(preset, table[preset][1] if preset in table else preset)
            presets.write_record(preset, folder)
    return folder


def fetch(preset: str, handle: str) -> Path:
    """The folder with the files of `handle`. Raises WeightsError, which names the ways without a network."""
    where = presets.source_of(preset)
    log.info(f"fetching {preset} from {where}")
    try:
        return _from_hugging_face(handle) if handle.startswith("hf://") else _from_kaggle(handle)
    except WeightsError:
        raise
    except ImportError as error:
        raise WeightsError(f"{preset} cannot be fetched: {error}; run pip install 'kerazoo[hub]'") from error
    except Exception as error:  # the libraries raise errors of requests, httpx and their own
        if isinstance(error, OSError) and error.errno in FULL:
            raise WeightsError(f"{preset} cannot be fetched: {error.strerror}; free some disk space") from error
        raise WeightsError(
            f"{preset} cannot be fetched from {where}: {_reason(error)}; {_ways(preset, handle)}"
        ) from error


def _from_hugging_face(handle: str) -> Path:
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    folder = Path(huggingface_hub.snapshot_download(handle.removeprefix("hf://"), allow_patterns=list(presets.FILES)))
    for path in folder.iterdir():
        blob = path.resolve()
        if path.is_symlink() and LFS.fullmatch(blob.name) and sha256(blob) != blob.name:
            blob.unlink()
            raise ValueError(f"the sha256 of {path.name} is not {blob.name}; it was removed")
    return folder


def _from_kaggle(handle: str) -> Path:
    import kagglehub

    logging.getLogger("kagglehub").setLevel(logging.WARNING)  # it writes to standard output
    return Path(kagglehub.model_download(handle.removeprefix("kaggle://")))


def _reason(error: BaseException) -> str:
    """The cause of `error` in one line; libraries wrap it."""
    text = " ".join(str(error).split())
    cause: BaseException | None = error.__cause__ or error.__context__
    while cause is not None and not text:
        text = " ".join(str(cause).split())
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: {text[:300]}"


def _ways(preset: str, handle: str) -> str:
    mirror = "HF_ENDPOINT to a mirror, or HTTPS_PROXY" if handle.startswith("hf://") else "HTTPS_PROXY"
    return (
        f"(1) use a network, or set {mirror}; (2) give the folder of a preset, --backbone hub:./FOLDER; (3) on another "
        f"machine run `kerazoo weights bundle hub:{preset} --output weights.tar`, then here `kerazoo weights unbundle "
        "weights.tar`"
    )
