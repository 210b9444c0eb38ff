"""The README.md beside the files of every target."""


def page(body: str) -> str:
    """README.md with the target's own `body`."""
    return f"""\
# An export of kerazoo on TensorFlow Serving

Written by `kerazoo deploy`. The files were checked against the published schemas and were not run.

{body}"""


def ask(url: str, options: str = "") -> str:
    """A shell command that asks about the image rose.jpg. It uses a pipe, because arguments have a limited length."""
    return f"""\
(printf '{{"instances": [{{"b64": "'; base64 < rose.jpg | tr -d '\\n'; printf '"}}]}}') |
  curl -s {options}--data-binary @- {url}:predict"""
