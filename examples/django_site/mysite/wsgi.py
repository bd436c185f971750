"""The WSGI application: Django in BackJob. Serve it with ``gunicorn --threads 8 mysite.wsgi``."""

import os

from backjob.integrations.django import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

application = get_wsgi_application()
