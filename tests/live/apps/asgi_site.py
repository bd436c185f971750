"""The workshop for servers that speak ASGI: a2wsgi runs it in so many threads."""

from a2wsgi import WSGIMiddleware
from workshop import application

on_1 = WSGIMiddleware(application, workers=1)
on_4 = WSGIMiddleware(application, workers=4)
