"""Django's page cache and jobs: a job is never answered from the cache, and its response is never stored there.

Covers the per-site cache (UpdateCacheMiddleware, FetchFromCacheMiddleware) and ``cache_page``, which share a method.
"""

from __future__ import annotations

import functools
from typing import Any

from django.http import HttpRequest
from django.middleware.cache import FetchFromCacheMiddleware


def bypass_page_cache() -> None:
    """Let the jobs of this process bypass Django's page cache. A second call does nothing.

    Django has no setting for it. Every lookup goes through this method, which also decides whether
    UpdateCacheMiddleware stores the response.
    """
    fetch = FetchFromCacheMiddleware.process_request
    if hasattr(fetch, "__wrapped__"):
        return

    @functools.wraps(fetch)
    def process_request(middleware: FetchFromCacheMiddleware, request: HttpRequest) -> Any:
        if getattr(getattr(request, "backjob", None), "is_worker", False):
            request._cache_update_cache = False  # noqa: SLF001 - what Django itself sets for a POST
            return None
        return fetch(middleware, request)

    FetchFromCacheMiddleware.process_request = process_request
