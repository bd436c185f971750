"""The parts of the starting request that a job lacks, for the reason of a failure.

Knows the sealed request and the environ of the job; decides nothing about the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backjob.config import Config
from backjob.model.job import JobRequest
from backjob.wsgi.headers import explain_left_out
from backjob.wsgi.outer import explain_outer, find_outer_objects
from backjob.wsgi.outer_values import digest_outer_values, find_other_values

_ENDED = "has ended or was replaced (log-out, another login or a changed password)"


class LeftOut:
    """Headers that were not sealed, and the user's data that middleware outside of BackJob had added.

    ``server``: environ of the self-request. ``environ``: that of the job.
    """

    def __init__(
        self, request: JobRequest, server: Mapping[str, Any], environ: Mapping[str, Any], config: Config
    ) -> None:
        self._request = request
        self._outer = find_outer_objects(server, config.environ_key)
        self.other_values: dict[str, str] = {}
        """Keys of plain values that differ from those of the starting request, and the explanation of each."""
        if request.outer is not None and not config.is_inline:  # a job that runs inline has no self-request
            arrived = digest_outer_values(server, config.environ_key, config.forward_environ)
            self.other_values = find_other_values(request.outer, arrived)
        missing = [key for key in self._outer if key not in environ]
        self._is_object_missing = bool(missing)
        self._missing = _explain([*missing, *self.other_values])

    def explain_user(self, user: str) -> str:
        """Return why the job can't run as the user who started it; ``user``: the one of its own session, or ""."""
        if self._is_object_missing:
            return f"The user of this job is not known{self._missing}"
        state = "belongs to another user by now" if user else _ENDED
        doubt = _explain([*self._outer, *self.other_values])
        return f"The session of the user who started this job {state}{doubt and f', or its user is not known{doubt}'}"

    def explain_exception(self) -> str:
        """Return what follows the text of an exception, or ""."""
        return self._missing

    def explain_response(self, code: int) -> str:
        """Return what follows the text of a response that is no success, or ""."""
        headers = explain_left_out(code, self._request.left_out, is_anonymous=self._request.anonymous)
        return f"{headers}{self._missing}"


def _explain(keys: list[str]) -> str:
    return f". {explain_outer(keys)}" if keys else ""
