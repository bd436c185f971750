"""The workshop with a cache: WORKSHOP_CACHE names its kind, where it is, and the options of BackJob."""

from __future__ import annotations

import json
import os

from dogpile.cache import make_region
from workshop import app

import backjob.application
from backjob import BackJob

kind, url, options = json.loads(os.environ["WORKSHOP_CACHE"])
if kind == "redis":
    region = make_region().configure("dogpile.cache.redis", arguments={"url": url})
else:
    region = make_region().configure("dogpile.cache.pymemcache", arguments={"url": [url], "serde": None})

backjob.application.CACHE_TIMEOUT = options.pop("longest_call", backjob.application.CACHE_TIMEOUT)
application = BackJob(app, cache=region, **options)
