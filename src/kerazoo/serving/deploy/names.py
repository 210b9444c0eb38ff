"""Names that Docker Compose and Kubernetes allow."""

import re

from kerazoo.errors import InputError

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # RFC 1035; Services and KServe demand that the first is a letter
LONGEST = 50  # of 63, because KServe appends "-predictor" and more
RULE = f"must be at most {LONGEST} lower-case letters, digits and hyphens, and begin with a letter"


def resource_name(model: str, name: str | None) -> str:
    """`name`, or one made of the export's name `model`: in lower case, with hyphens for spaces, dots and underscores.

    Raises InputError if it is not allowed.
    """
    if name is not None:
        if not _allowed(name):
            raise InputError(f"name={name!r:.80} {RULE}")
        return name
    made = re.sub(r"[ ._-]+", "-", model.lower()).strip("-")
    if not _allowed(made):
        raise InputError(
            f"the export's name {model!r:.80} cannot be used in Kubernetes; choose one with --name: it {RULE}"
        )
    return made


def check_claim(claim: str) -> None:
    """Raise InputError unless `claim` can be the name of a PersistentVolumeClaim: a DNS name, RFC 1123."""
    label = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    if not re.fullmatch(rf"{label}(\.{label})*", claim) or len(claim) > 253:
        raise InputError(
            f"claim={claim!r:.80} must be the name of a PersistentVolumeClaim: lower-case letters, digits, hyphens and "
            "dots"
        )


def _allowed(name: str) -> bool:
    return len(name) <= LONGEST and NAME.fullmatch(name) is not None
