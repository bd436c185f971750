"""The workshop with a cache, used while it is loaded: its clients have been connected before any fork."""

from cached import application

assert application.jobs.find() == []
