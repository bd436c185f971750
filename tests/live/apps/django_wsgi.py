"""The wsgi.py of a Django project, with backjob in it."""

import os

from django.core.wsgi import get_wsgi_application

from backjob import BackJob

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site")

application = BackJob(get_wsgi_application())
