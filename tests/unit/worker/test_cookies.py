"""A job's response that changes a cookie of its user: one warning, without a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.served import wrap

from backjob.worker import cookies


@pytest.mark.parametrize(
    ("cookie", "set_cookies", "changed"),
    [
        ("sid=1; theme=dark", ["sid=2; Path=/; HttpOnly"], ["sid"]),
        ("sid=1", ["sid=1; Path=/"], []),
        ('sid="1"', ["sid=1"], []),
        ("theme=dark", ["sid=2"], []),
        ("", ["sid=2"], []),
        ("sid=1; theme=dark", ["theme=; Max-Age=0", "sid=a=b"], ["theme", "sid"]),
        ("sid=1", ["nonsense", "=2", ""], []),
    ],
)
def test_changed_cookies(cookie: str, set_cookies: list[str], changed: list[str]) -> None:
    assert cookies.list_changed(cookie, set_cookies) == changed


def test_a_rotated_session_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cookies, "_warned", set())

    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Set-Cookie", "other=1"), ("Set-Cookie", "sid=new-canary; Path=/")])
        return [b"done"]

    with wrap(tmp_path, job) as site:
        for _ in range(2):
            assert site.run("/job", by={"HTTP_COOKIE": "sid=old-canary"}).status_text == "done"
        site.run("/job", by={"HTTP_COOKIE": "sid=old-canary"}, as_user=False)
    (warning,) = [record.getMessage() for record in caplog.records if "cookie" in record.getMessage()]
    assert "'sid'" in warning
    assert "canary" not in warning
