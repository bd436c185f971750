"""The workshop's pages as those of a Bottle app."""

from __future__ import annotations

import bottle
import webob
import workshop

from backjob import BackJob

app = bottle.Bottle()


@app.route("<page:path>", method="ANY")
def show(page: str) -> bottle.HTTPResponse:
    answer = webob.Request(bottle.request.environ).send(workshop.app)
    return bottle.HTTPResponse(answer.app_iter, answer.status, answer.headerlist)


application = BackJob(app)
