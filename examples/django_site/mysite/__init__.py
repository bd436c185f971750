"""A complete Django project with a background job: log in, start it from a form, watch it run.

In this folder's parent, ``python manage.py migrate`` and ``python manage.py createsuperuser`` make the database and
a user who can log in. Then serve it with ``gunicorn --threads 8 mysite.wsgi`` or ``python manage.py runserver``.
"""
