"""The request that an action answers, once more, for the ``background`` decorators: what start() takes for a target.

Knows WSGI environs; no framework. Without cookies and credentials, which a job gets from the request that starts it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from webob.request import BaseRequest

FORM = "application/x-www-form-urlencoded"
NO_FILES = "a job can't get uploaded files: save them first, and start a job with their names"


def make_again(environ: Mapping[str, Any], body: bytes, content_type: str) -> BaseRequest:
    """The same method, path and query as in this environ, with this body."""
    return BaseRequest(
        {
            "REQUEST_METHOD": environ["REQUEST_METHOD"],
            "SCRIPT_NAME": environ.get("SCRIPT_NAME", ""),
            "PATH_INFO": environ.get("PATH_INFO", ""),
            "QUERY_STRING": environ.get("QUERY_STRING", ""),
            "CONTENT_TYPE": content_type,
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
        }
    )
