"""The choices of a call of `kerazoo.deploy`, checked."""

import re
from dataclasses import dataclass

from kerazoo.errors import InputError
from kerazoo.serving.deploy.names import check_claim

OWNERS = {"claim": "kubernetes", "storage_uri": "kserve"}  # the target that an option applies to; others apply to all
URI = re.compile(r"[a-z][a-z0-9+.-]*://[^\s`]+")
MEMORY = re.compile(r"([1-9][0-9]{0,6})(Mi|Gi)")


@dataclass(frozen=True)
class Choices:
    """What may be chosen; None for the default."""

    name: str | None = None
    memory: str | None = None
    cpus: int | None = None
    claim: str | None = None
    storage_uri: str | None = None

    @property
    def mebibytes(self) -> int | None:
        """`memory` in MiB. Raises InputError."""
        if self.memory is None:
            return None
        match = MEMORY.fullmatch(self.memory)
        if match is None:
            raise InputError(f"memory={self.memory!r:.40} must be a whole number of Mi or Gi, such as 1536Mi or 2Gi")
        return int(match[1]) * (1024 if match[2] == "Gi" else 1)

    def check(self, to: str) -> None:
        """Raise InputError if a value is not allowed, does not apply to the target `to`, or is missing for it."""
        for option, owner in OWNERS.items():
            if getattr(self, option) is not None and owner != to:
                raise InputError(f"{option} applies only to {owner}, not {to}; remove it")
        if self.cpus is not None and (isinstance(self.cpus, bool) or not isinstance(self.cpus, int) or self.cpus < 1):
            raise InputError(f"cpus={self.cpus!r} must be a whole number of at least 1")
        if self.claim is not None:
            check_claim(self.claim)
        if OWNERS["storage_uri"] == to:
            self._check_uri()

    def _check_uri(self) -> None:
        if self.storage_uri is None:
            raise InputError(
                "KServe must know where the export is; give a storage URI such as s3://models/NAME or pvc://CLAIM/NAME "
                "(--storage-uri, in Python storage_uri=...)"
            )
        if not self.storage_uri.isprintable() or not URI.fullmatch(self.storage_uri):
            raise InputError(
                f"storage_uri={self.storage_uri!r:.80} must be a URI such as s3://models/NAME or pvc://CLAIM/NAME"
            )
