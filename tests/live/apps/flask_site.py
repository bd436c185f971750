"""The workshop's pages as those of a Flask app, wrapped as Flask's people wrap it: the app object stays what it was."""

from __future__ import annotations

import flask
import workshop

from backjob import BackJob

app = flask.Flask(__name__)
app.wsgi_app = BackJob(app.wsgi_app)


@app.route("/", methods=["GET", "POST"])
@app.route("/<path:page>", methods=["GET", "POST"])
def show(page: str = "") -> flask.Response:
    return flask.Response.from_app(workshop.app, flask.request.environ)
