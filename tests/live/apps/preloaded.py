"""The workshop, used while it is loaded: its engine has been connected before any fork."""

from workshop import application

application.jobs.find()
