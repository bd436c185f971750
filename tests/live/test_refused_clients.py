"""Servers that ask self-requests for a client certificate: the job fails at once, and the text says what to set."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from support.servers import GTHREAD, ONE_SYNC, Certificate, Setup

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("setup", [GTHREAD, ONE_SYNC], ids=str)
def test_a_missing_client_certificate_is_named(
    run_server: Serve, certificate: Certificate, setup: Setup, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "clients.pem")
    settings = tmp_path / "settings.py"
    settings.write_text(
        "import ssl\n"
        "def ssl_context(conf, default):\n"
        "    context = default()\n"
        f"    context.minimum_version = context.maximum_version = ssl.TLSVersion({int(version)})\n"
        "    return context\n"
    )
    options = ("--cert-reqs", "2", "--ca-certs", str(tmp_path / "clients.pem"), "--config", str(settings))
    server = run_server(setup.over("tls").with_options(*options), is_trouble_expected=True)
    shown = tmp_path / "client.pem"
    authority.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(shown)
    server.tls = ssl.create_default_context(cafile=certificate.authority)
    server.tls.load_cert_chain(shown)
    end = server.end_of(server.start("/work"), 5)
    assert end["status"] == Status.FAILED
    assert "asks for a client certificate, which self-requests do not have" in end["status_text"]
    assert 'set connect="http://127.0.0.1:…"' in end["status_text"]
