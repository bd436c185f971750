"""The duties of a keeper: one that fails does not block the others.

Knows outages of the store, and nothing of what a duty does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from backjob.errors import Refused, StoreError, TimedOut, describe
from backjob.storage.sql.errors import AnswerLost, Unreachable

log = logging.getLogger("backjob")

Result = TypeVar("Result")


class Duties:
    """Does duties, and remembers which of them failed the last time."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def do(self, failure: str, duty: Callable[[], Result], *, is_vital: bool = False) -> Result | None:
        """Return what the duty returns, or None if it fails by itself. ``failure`` is logged when it begins to fail.

        Raises StoreError for an outage, which concerns all duties. ``is_vital``: every StoreError but Refused and
        TimedOut counts as one.
        """
        try:
            result = duty()
        except (Unreachable, AnswerLost):
            raise
        except StoreError as error:
            if is_vital and not isinstance(error, (Refused, TimedOut)):
                raise
            self._note(failure, error, None)
            return None
        except Exception as error:  # noqa: BLE001 - a row may hold anything, and the other duties are to go on
            self._note(failure, error, error)
            return None
        self._failing.discard(failure)
        return result

    def _note(self, failure: str, error: Exception, traceback: Exception | None) -> None:
        if failure not in self._failing:
            self._failing.add(failure)
            log.error("%s: %s", failure, describe(error), exc_info=traceback)
