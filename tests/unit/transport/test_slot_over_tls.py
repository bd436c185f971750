"""A slot that has to launch a job over TLS waits for no handshake: it may be the one in which that would be made."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from support.served import PATIENCE, wrap

from backjob import Status


@pytest.mark.parametrize("job", [{}, {"method": "POST", "data": {"a": 1}}], ids=["GET", "POST"])
def test_a_thread_takes_the_job_over(tmp_path: Path, job: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """The server takes connections into its backlog, and makes no handshake. A POST's path is proven first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connect = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with wrap(tmp_path, monitor="leave", connect=connect, close_delay=0.05) as site:
            job_id = site.start("/job", **job)
            monitor = threading.Thread(target=site.send, args=[site.launches.tokens[0].text], daemon=True)
            monitor.start()
            monitor.join(PATIENCE)
            assert not monitor.is_alive()
            row = site.row(job_id)
            assert (row.status, row.launch_failed_for, row.status_text) == (Status.STARTED, 0, "")
            assert "is launched again" not in caplog.text
            listener.close()  # ends the connection of the thread that waits for a handshake now
