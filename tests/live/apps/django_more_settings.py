"""The settings of the Django example, for the pages of django_more, and with the CSRF secret in the session."""

from __future__ import annotations

from mysite.settings import *  # noqa: F403 - they are that project's, with changes

DEBUG = False
ROOT_URLCONF = "django_more"
CSRF_USE_SESSIONS = True
