"""The workshop with a cache: WORKSHOP_CACHE names its kind, where it is, and the options of BackJob."""

from __future__ import annotations

import json
import os

from dogpile.cache import make_region
from workshop import app

from backjob import BackJob, cache

kind, url, options = json.loads(os.environ["WORKSHOP_CACHE"])
if kind == "redis":
    region = make_region().configure("dogpile.cache.redis", arguments={"url": url})
else:
    region = make_region().configure("dogpile.cache.pymemcache", arguments={"url": [url], "serde": None})

cache.LONGEST_CALL = options.pop("longest_call", cache.LONGEST_CALL)
application = BackJob(app, cache=region, **options)
