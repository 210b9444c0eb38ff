"""The file in a form that a browser or curl sends."""

import logging
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from kerazoo.serving.codes import RequestError
from kerazoo.serving.http.messages import Request

FIELDS = 1_000  # files and other fields in a form

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what a client sent is not for our log


async def uploaded(request: Request) -> bytes:
    """The bytes of the one file of a form. Raises RequestError."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield request.body

    headers = Headers(raw=list(request.headers))
    parser = MultiPartParser(headers, stream(), max_files=FIELDS, max_fields=FIELDS)
    parser.spool_max_size = len(request.body) + 1  # in memory, where it is already
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise RequestError(
            f"the form cannot be read: {getattr(error, 'message', None) or 'it has no boundary'}"
        ) from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise RequestError(f"the form must have one file, got {len(files)}")
        return await files[0].read()
    finally:
        await form.close()
