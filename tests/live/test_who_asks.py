"""A server's authentication module says who asks: a job has that of its starter, and none of the self-request."""

from __future__ import annotations

import json

import pytest
from support.apache import daemon, embedded
from support.servers import Setup

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live

# As mod_auth_openidc does, Apache sets it for a request with a session; for the self-request it sets something else.
MODULE = (
    "LoadModule setenvif_module /usr/lib/apache2/modules/mod_setenvif.so",
    "SetEnvIf Request_URI . OIDC_CLAIM_email=anonymous@shop.example",
    "SetEnvIf Cookie session=ada OIDC_CLAIM_email=ada@shop.example",
)


@pytest.mark.parametrize("setup", [daemon(3), embedded(1, threads=4)], ids=str)
def test_a_claim_is_the_starters(run_server: Serve, setup: Setup) -> None:
    server = run_server(setup.with_options(*MODULE))
    for as_user, email in ((True, "ada@shop.example"), (False, None)):
        end = server.end_of(server.start("/echo", {"Cookie": "session=ada"}, as_user=as_user))
        assert end["status"] == Status.COMPLETED, end["status_text"]
        assert json.loads(end["status_text"])["email"] == email
