"""Two workshops on one server, each under a path of its own and with a table of its own."""

from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from workshop import app
from workshop import application as workshop

from backjob import BackJob

application = DispatcherMiddleware(
    NotFound(),
    {
        "/first": BackJob(app, table_name="first_job"),
        "/second & third": BackJob(app, table_name="second_job"),
    },
)

checked = DispatcherMiddleware(NotFound(), {"/first": workshop})
