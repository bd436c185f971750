"""The workshop, used while it is loaded: its engine has been connected before any fork."""

import os

from workshop import application, note_inherited_databases

application.jobs.find()
os.register_at_fork(after_in_child=note_inherited_databases)
