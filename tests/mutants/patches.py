"""The mutants: each a promise of the package, taken back by one small patch, and the tests that must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """``before`` stands exactly once in ``file`` and becomes ``after``; ``tests`` are pytest's arguments."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTANTS = [
    Mutant(
        "no status guard",
        "backjob/statements.py",
        "statement.where(table.c.status.in_(sources)).values(",
        "statement.values(",
        ("tests/test_store.py",),
    ),
    Mutant(
        "no attempt fence on moves",
        "backjob/statements.py",
        'made.where(columns.attempt == bindparam("at_attempt"))',
        'made.where(bindparam("at_attempt") > 0)',
        ("tests/test_store.py",),
    ),
    Mutant(
        "no attempt fence on signs, claims and holds",
        "backjob/statements.py",
        'columns.id == bindparam("job_id"), columns.attempt == bindparam("at_attempt")',
        'columns.id == bindparam("job_id"), bindparam("at_attempt") > 0',
        ("tests/test_store.py",),
    ),
    Mutant(
        "final statuses are not final",
        "backjob/job.py",
        "FAIL = Transition(frozenset({Status.STARTED, Status.INPROGRESS}), Status.FAILED)",
        "FAIL = Transition(frozenset(Status), Status.FAILED)",
        ("tests/test_job.py", "tests/test_store.py"),
    ),
    Mutant(
        "a claim that was lost is taken as won",
        "backjob/middleware.py",
        "if not backend.store.claim(",
        "if backend.store.claim(",
        ("tests/test_tokens.py", "tests/test_worker.py"),
    ),
    Mutant(
        "a launch can be replayed",
        "backjob/statements.py",
        'held.where(columns.held_by == bindparam("old_holder"))',
        'held.where(bindparam("old_holder") != "")',
        ("tests/test_store.py", "tests/test_tokens.py"),
    ),
    Mutant(
        "signatures are not checked",
        "backjob/keyring.py",
        "if hmac.compare_digest(mac, _mac(subkeys.token, head)):",
        "if mac:",
        ("tests/test_keyring.py",),
    ),
    Mutant(
        "tokens are not bound to the sealed request",
        "backjob/keyring.py",
        "return sealed is not None and hmac.compare_digest(self.digest, _digest(sealed))",
        "return sealed is not None",
        ("tests/test_tokens.py", "tests/test_secrets.py", "tests/test_keyring.py"),
    ),
    Mutant(
        "sealed requests are not bound to their job",
        "backjob/keyring.py",
        "if (sealed_id, sealed_uid) != (job_id, uid):",
        "if not sealed_uid:",
        ("tests/test_keyring.py",),
    ),
    Mutant(
        "the seal is skipped",
        "backjob/keyring.py",
        "return self._newest.fernet.encrypt(json.dumps([job_id, uid, fields]).encode())",
        "return json.dumps([job_id, uid, fields]).encode()",
        ("tests/test_keyring.py", "tests/test_secrets.py"),
    ),
    Mutant(
        "the proof is not checked",
        "backjob/launcher.py",
        "return answer.status in OUTCOMES[outcome] and token.prove(outcome).encode() in answer.raw",
        "return answer.status in OUTCOMES[outcome]",
        ("tests/test_launcher.py",),
    ),
    Mutant(
        "the Host header is believed",
        "backjob/address.py",
        '    for key in ("gunicorn.socket", "werkzeug.socket"):\n',
        '    host, _, port = environ.get("HTTP_HOST", "").partition(":")\n'
        "    if port:\n"
        "        yield Address(host=host, port=int(port))\n"
        '    for key in ("gunicorn.socket", "werkzeug.socket"):\n',
        ("tests/test_address.py",),
    ),
    Mutant(
        "cookies and credentials travel over the socket",
        "backjob/launcher.py",
        "headers={**self._config.connect_headers, TOKEN_HEADER: token.text},",
        'headers={**{k[5:].title().replace("_", "-"): v for k, v in request.headers.items() if k != "HTTP_HOST"},'
        " TOKEN_HEADER: token.text},",
        ("tests/test_launcher.py",),
    ),
    Mutant(
        "targets are not checked",
        "backjob/_socket.py",
        '{check_target(target)} HTTP/1.1"]',
        '{target} HTTP/1.1"]',
        ("tests/test_request_bytes.py",),
    ),
    Mutant(
        "headers are not checked",
        "backjob/_socket.py",
        "for name, value in (check_header(*field) for field in fields)]",
        "for name, value in fields]",
        ("tests/test_request_bytes.py",),
    ),
    Mutant(
        "the status line is taken as the whole answer",
        "backjob/_socket.py",
        "at_end = self._end is not None and len(self.raw) >= self._end",
        "at_end = self.status is not None",
        ("tests/test_answer.py",),
    ),
    Mutant(
        "close_delay has no effect",
        "backjob/launcher.py",
        "        if time.monotonic() >= end:\n                return False",
        "        if time.monotonic() >= end + 60:\n                return False",
        ("tests/test_launcher.py",),
    ),
    Mutant(
        "close() is not called",
        "backjob/response.py",
        "            if close is not None:\n                close()",
        "            if close is None:\n                close()",
        ("tests/test_worker.py",),
    ),
    Mutant(
        "a redirect completes",
        "backjob/worker.py",
        "        elif self._redirect_ok:",
        "        elif code:",
        ("tests/test_worker.py", "tests/test_outcomes.py"),
    ),
    Mutant(
        "a server error completes",
        "backjob/worker.py",
        "        if 200 <= code < 300:",
        "        if 200 <= code < 300 or code >= 500:",
        ("tests/test_worker.py", "tests/test_outcomes.py"),
    ),
    Mutant(
        "JobEnded is an ordinary exception",
        "backjob/errors.py",
        "class JobEnded(BaseException):",
        "class JobEnded(Exception):",
        ("tests/test_worker.py",),
    ),
    Mutant(
        "progress goes back",
        "backjob/worker.py",
        "self._progress = max(self._progress, _clamp(progress))",
        "self._progress = _clamp(progress)",
        ("tests/test_worker.py",),
    ),
    Mutant(
        "max_output has no effect",
        "backjob/output.py",
        "if self._cut or len(encoded) > room:",
        "if self._cut:",
        ("tests/test_output.py",),
    ),
    Mutant(
        "an anonymous job keeps its user",
        "backjob/request.py",
        "    if not as_user:\n",
        "    if as_user is None:\n",
        ("tests/test_request.py", "tests/test_identity.py"),
    ),
    Mutant(
        "unique jobs are shared between users",
        "backjob/jobs.py",
        "repr((site, what, scope, user))",
        "repr((site, what, scope))",
        ("tests/test_identity.py",),
    ),
    Mutant(
        "a proxy's time-out ends a job that runs",
        "backjob/monitor.py",
        "if _is_at(glance, job, Status.STARTED) and not is_proof(",
        "if glance and not is_proof(",
        ("tests/test_monitor.py",),
    ),
    Mutant(
        "a silent job runs for ever",
        "backjob/monitor.py",
        "or not 0 < job.error_timeout < glance.silent_for:",
        "or glance.silent_for >= 0:",
        ("tests/test_monitor.py",),
    ),
    Mutant(
        "a failed request still launches what was to follow it",
        "backjob/session.py",
        'is_failed = is_failed or getattr(self, "_status", "5")[:1] == "5"',
        "is_failed = False",
        ("tests/test_after_response.py",),
    ),
    Mutant(
        "everybody may read the key file",
        "backjob/keyring.py",
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)",
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)",
        ("tests/test_keyring.py",),
    ),
    Mutant(
        "a job's row may have any progress",
        "backjob/schema.py",
        '"progress BETWEEN 0 AND 100"',
        '"progress >= 0"',
        ("tests/test_schema.py",),
    ),
    Mutant(
        "an import points upwards",
        "backjob/job.py",
        "from dataclasses import dataclass, field\n",
        "from dataclasses import dataclass, field\n\nfrom . import keyring  # noqa: F401\n",
        ("tests/test_layers.py",),
    ),
    Mutant(
        "what a proxy makes of a check's facts is believed",
        "backjob/check.py",
        'return token.prove(f"facts {facts}")',
        'return token.prove("facts")',
        ("tests/test_check.py",),
    ),
    Mutant(
        "a check asks only whether the store can be read",
        "backjob/check.py",
        "store.request_cancel(_NO_JOB)  # a write that changes nothing: only reading would be no proof",
        "store.get(_NO_JOB)",
        ("tests/test_check.py",),
    ),
    Mutant(
        "a check runs a job a second time",
        "backjob/second_visit.py",
        ' and not getattr(jobs, "is_worker", True)',
        "",
        ("tests/test_check.py",),
    ),
]
