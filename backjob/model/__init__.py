"""Frozen records of jobs, transitions and the recovery policy. Pure: no database, no socket, no WSGI."""
