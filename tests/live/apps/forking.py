"""The workshop, in a process that forks by itself: $STEPS run while the app is loaded, those of /do in a request."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import webob
from workshop import PAGES, application

fork = multiprocessing.get_context("fork")
pools: list[Any] = []


def use_pool() -> None:
    """Fork a pool and end it again."""
    with fork.Pool(2) as pool:
        pool.map(abs, range(4))


def keep_pool() -> None:
    """Fork a pool that stays."""
    pool = fork.Pool(2)
    pool.map(abs, range(4))
    pools.append(pool)


def wait_for_keeper() -> None:
    """Until the keeper has taken its first step, with a database to look into."""
    application.jobs.find()
    while not application._assembly._backend or not application._assembly._backend.keeper._next.renewal:
        time.sleep(0.01)


STEPS: dict[str, Callable[[], object]] = {
    "use": application.jobs.find,
    "keep": wait_for_keeper,
    "pool": use_pool,
    "stays": keep_pool,
    "close": application.close,
}


def do(request: webob.Request) -> Any:
    for step in request.json_body:
        STEPS[step]()
    return webob.Response(text="Done.")


PAGES["/do"] = do
for step in json.loads(os.environ.get("STEPS", "[]")):
    STEPS[step]()
