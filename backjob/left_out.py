"""The parts of the starting request that a job lacks, for the text of a job that fails.

Knows the sealed request and the environ of the job; decides nothing about the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .headers import explain_left_out
from .job import JobRequest
from .outer import explain_outer, find_outer_objects

_ENDED = "has ended or was replaced (log-out, another login or a changed password)"


class LeftOut:
    """Headers that were not taken along, and objects from middleware outside of BackJob.

    ``server`` is the environ of the self-request, ``environ`` that of the job.
    """

    def __init__(
        self, request: JobRequest, server: Mapping[str, Any], environ: Mapping[str, Any], own_key: str
    ) -> None:
        self._request = request
        self._outer = find_outer_objects(server, own_key)
        missing = [key for key in self._outer if key not in environ]
        self._missing = f". {explain_outer(missing)}" if missing else ""

    def explain_user(self, user: str) -> str:
        """Return why the job can't run as the user who started it; ``user``: the one of its own session, or ""."""
        if self._missing:
            return f"The user of this job is not known{self._missing}"
        state = "belongs to another user by now" if user else _ENDED
        doubt = f", or its user is not known. {explain_outer(self._outer)}" if self._outer else ""
        return f"The session of the user who started this job {state}{doubt}"

    def explain_exception(self) -> str:
        """Return what follows the text of an exception, or ""."""
        return self._missing

    def explain_response(self, code: int) -> str:
        """Return what follows the text of a response that is no success, or ""."""
        headers = explain_left_out(code, self._request.left_out, is_anonymous=self._request.anonymous)
        return f"{headers}{self._missing}"
