"""The file names in an export's folder: saved_models/NAME/VERSION/saved_model.pb, and the passport."""

PASSPORT = "assets.extra/passport.json"
SAVED_MODEL = "saved_model.pb"


def is_version(name: str) -> bool:
    """Whether a folder's name is a version, which is a whole number."""
    return name.isascii() and name.isdigit() and len(name) <= 18
