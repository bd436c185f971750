"""Nothing of a user's identity or form is ever in clear, outside of the job itself; nothing that was changed runs."""

import gc
import logging
import sys
import traceback
import types

import pytest
from support import wait_until
from support.served import call, make_environ, serve_site, wrap

from backjob import BackJob, BackJobError, Status
from backjob.keyring import MONITOR, WORKER, SealError
from backjob.model.job import FINAL, NewJob

TEXT = [("Content-Type", "text/plain; charset=utf-8")]
CANARIES = {"cookie": "CanaryCookie", "authorization": "CanaryBearer", "form": "CanaryForm", "query": "CanaryQuery"}
KEY_CANARY = "CanaryKey-that-is-long-enough-to-be-a-key"
BY_USER = {
    "HTTP_COOKIE": f"session={CANARIES['cookie']}",
    "HTTP_AUTHORIZATION": f"Bearer {CANARIES['authorization']}",
    "HTTP_X_CSRF_TOKEN": "CanaryToken",
}
CALL = {"params": {"q": CANARIES["query"]}, "method": "POST", "data": {"password": CANARIES["form"]}, "by": BY_USER}


def find_canaries(text):
    """Which secrets a text tells, in clear or as bytes in any common dress."""
    return [
        secret
        for secret in (*CANARIES.values(), "CanaryToken", "CanaryKey", "CanaryUnique")
        if secret.lower() in text.lower()
    ]


def read_files(folder):
    """Everything that lies on the disk: database, WAL, key file."""
    return "".join(path.read_bytes().decode("latin-1") for path in folder.iterdir() if path.is_file())


@pytest.fixture
def site(tmp_path):
    with wrap(tmp_path, key=KEY_CANARY) as site:
        yield site


@pytest.mark.parametrize("outcome", ["completes", "raises", "redirects", "fails", "cancelled", "retried"])
def test_nothing_is_told_before_during_and_after(tmp_path, caplog, outcome):
    """On a real server, every log message and every byte on the disk."""
    caplog.set_level(logging.DEBUG)

    def job(environ, start_response):
        jobs = environ["backjob"]
        assert not find_canaries(read_files(tmp_path))
        form = environ["wsgi.input"].read().decode()
        # Else this test would prove nothing: the job has it all.
        came.append(find_canaries(form + repr({**environ, "backjob": None})))
        jobs.update(10, "at work")
        assert not find_canaries(repr(jobs) + repr(jobs.status(jobs.job_id)))
        if outcome == "raises" or (outcome == "retried" and jobs.attempt == 1):
            raise RuntimeError("it broke")
        if outcome == "fails":
            jobs.fail("gave up")
        if outcome == "cancelled":
            jobs.cancel(jobs.job_id)
            jobs.update(20)
        status = "302 Found" if outcome == "redirects" else "200 OK"
        location = f"/login?next={environ['QUERY_STRING']}"
        start_response(status, [*TEXT, ("Location", location), ("Set-Cookie", environ["HTTP_COOKIE"])])
        return [b"done"]

    came = []
    with serve_site(tmp_path, job, key=KEY_CANARY) as site:
        job_id = site.start("/job", **CALL, retries=int(outcome == "retried"))
        status = site.wait_for_end(job_id)
        assert not find_canaries(read_files(tmp_path) + str(site.rows()) + repr(status) + repr(status.as_dict()))
        assert site.row(job_id).sealed is None
    expected = {"completes": 2, "retried": 2, "cancelled": 4}.get(outcome, 3)
    assert status.status == expected
    assert len(came) == 1 + (outcome == "retried")
    assert set(came[0]) == {*CANARIES.values(), "CanaryToken"}
    logged = "".join(logging.Formatter().format(record) + repr(record.args) for record in caplog.records)
    assert find_canaries(logged + caplog.text) == []


def test_the_disk_holds_no_secret_while_a_job_waits(site, tmp_path):
    site.start("/job", **CALL)
    assert len(site.rows()) == 1
    assert find_canaries(read_files(tmp_path)) == []


def test_the_key_file_and_the_database_are_the_owners_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("BACKJOB_KEY", raising=False)
    with wrap(tmp_path, key=None) as site:
        site.start("/job", **CALL)
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        key = (tmp_path / "jobs.sqlite3.key").read_text().strip()
        assert key not in (tmp_path / "jobs.sqlite3").read_text("latin-1")
        assert key not in describe(site.application)
    assert {"jobs.sqlite3", "jobs.sqlite3.key"} <= set(modes)
    assert set(modes.values()) == {0o600}


def describe(root):
    """The repr of everything of ours that can be reached from here, as an error reporter that shows locals would."""
    parts, seen, waiting = [], set(), [root]
    plain = (str, bytes, int, float, bool, type(None))
    foreign = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.FrameType)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (*plain, *foreign)):
            continue
        seen.add(id(thing))
        if type(thing).__module__.startswith("backjob"):
            parts.append(repr(thing))
            waiting += gc.get_referents(thing)
        elif isinstance(thing, (list, tuple, dict, types.MethodType)):
            waiting += gc.get_referents(thing)
    return "\n".join(parts)


def test_no_repr_tells_anything(site):
    """Job, JobRequest, Token, NewJob, Config, CurrentJob, Jobs, BackJob, and whatever hangs on them."""

    def app(environ, start_response):
        reprs.append(describe([environ["backjob"], site.application]))
        start_response("200 OK", TEXT)
        return []

    reprs = []
    site.job = app
    job_id = site.start("/job", **CALL)
    job = site.row(job_id)
    request = site.backend.keyring.unseal(job_id, job.uid, job.sealed)
    tokens = [site.backend.keyring.sign(kind, job_id, 1, job.sealed) for kind in (MONITOR, WORKER)]
    site.within(lambda jobs: reprs.append(describe([jobs])))
    site.work(job_id)
    new = NewJob(job.uid, request, job.key_id, unique_key="CanaryUnique", held_by=tokens[0].nonce)
    reprs.append(describe([job, new, request, tokens, site.application, site.backend]))
    text = "\n".join(reprs)
    for name in ("Config(", "Job(", "NewJob(", "JobRequest(", "Token(", "<CurrentJob", "<RequestJobs"):
        assert name in text
    assert find_canaries(text) == []
    # A token, or what signs one, would let whoever reads it run the job.
    for secret in (tokens[0].text, tokens[1].text, tokens[0].nonce, repr(tokens[0].secret), repr(job.sealed), job.uid):
        assert secret not in text
    for subkeys in site.backend.keyring._subkeys:
        assert repr(subkeys.token) not in text


def lead_astray(site):
    """Calls that raise, each of them with secrets in its arguments."""
    user = {"by": BY_USER}
    query, form = CANARIES["query"], CANARIES["form"]
    pairs = {"password": form}
    yield "outside", lambda: site.start(f"/other?{query}", by={**BY_USER, "SCRIPT_NAME": "/app"})
    yield "fragment", lambda: site.start(f"/job?q={query}#part", **user)
    yield "space", lambda: site.start(f"/job?q={query} x", **user)
    yield "line", lambda: site.start(f"/job?q={query}\r\nX: y", **user)
    yield "not ascii", lambda: site.start(f"/job?q={query}ü", **user)
    yield "not params", lambda: site.start("/job", form, **user)
    yield "not data", lambda: site.start("/job", data=f"password={form}", **user)
    yield "bad value", lambda: site.start("/job", data={"password": {form: form}}, **user)
    yield "bad list", lambda: site.start("/job", data=[("password", form, 1)], **user)
    yield "surrogate", lambda: site.start("/job", data={"password": form + "\udc80"}, **user)
    yield "surrogate in params", lambda: site.start("/job", {"q": query + "\udc80"}, **user)
    yield "method", lambda: site.start("/job", method="GET /", data=pairs, **user)
    yield "delay", lambda: site.start("/job", delay=-1, data=pairs, **user)
    yield "scope", lambda: site.start("/job", scope=form * 40, data=pairs, **user)
    yield "status", lambda: site.within(lambda jobs: jobs.status("no such job"), BY_USER)


def test_no_error_tells_anything(site):
    names = []
    for name, mislead in lead_astray(site):
        with pytest.raises((BackJobError, ValueError, TypeError)) as raised:
            mislead()
        error = raised.value
        shown = "".join(traceback.format_exception(error))
        ours = [entry for entry in traceback.extract_tb(error.__traceback__) if "/backjob/" in entry.filename]
        assert ours, name
        if find_canaries(str(error) + repr(error) + shown + repr(error.__cause__)):
            names.append(name)
    assert names == []
    assert site.application.jobs.find() == []


@pytest.mark.parametrize(
    "options",
    [
        {"key": "CanaryKey"},
        {"key": ["CanaryKey"]},
        {"connect": "http://CanaryKey:CanaryKey@127.0.0.1"},
        {"connect_headers": {"Authorization": "CanaryKey\n"}},
        {"database": "sqlite://CanaryKey:CanaryKey@:bad:/x"},
        {"database": "nosuch://u:CanaryKey@host/x"},
        {"key": KEY_CANARY, "no_option": 1},
    ],
    ids=str,
)
def test_no_option_that_is_refused_is_shown(options):
    options = {"key": KEY_CANARY, **options}
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - each has words of its own
        BackJob(lambda environ, start_response: [], **options)
    assert find_canaries("".join(traceback.format_exception(raised.value)) + repr(raised.value)) == []


def test_what_the_status_page_shows_is_only_the_status(site):
    """``status()`` and ``find()`` are made for pages: no method, path, query, user or header in them."""
    job_id = site.start("/job/path", **CALL)
    shown = repr(site.status(job_id)) + repr(site.application.jobs.find()) + repr(site.status(job_id).as_dict())
    assert find_canaries(shown) == []
    assert "/job/path" not in shown


def test_our_own_answers_tell_nothing(site):
    job_id = site.start("/job", **CALL)
    for token in (site.launches.tokens[-1].text, site.token(job_id), "forged"):
        reply = site.send(token, "/job", "POST", b"password=CanaryForm", **BY_USER)
        assert find_canaries(repr(reply)) == []


@pytest.mark.parametrize("end", ["work", "cancel", "fail", "finish"])
def test_all_of_it_is_wiped_at_the_end(site, end):
    job_id = site.start("/job", unique=True, **CALL)
    assert site.sql("SELECT count(*) FROM background_job WHERE sealed IS NOT NULL AND unique_key IS NOT NULL") == [(1,)]
    if end == "work":
        site.work(job_id)
    elif end == "finish":
        site.backend.store.claim(job_id, 1, "somebody", 30, 0)
        site.application.jobs.finish("by hand", job_id)
    else:
        getattr(site.application.jobs, end)(job_id=job_id)
    assert site.status(job_id).status.is_final
    assert site.sql("SELECT sealed, unique_key, lease_by, held_by FROM background_job") == [(None,) * 4]


# Rows that were changed.


def never(environ, start_response):
    raise AssertionError("a changed job ran")


def swap_sealed(site, job_id, other):
    site.sql(
        f"UPDATE background_job SET sealed = (SELECT sealed FROM background_job WHERE id = {other}) WHERE id = {job_id}"
    )


def swap_sealed_and_uid(site, job_id, other):
    swap_sealed(site, job_id, other)
    [(uid,)] = site.sql(f"SELECT uid FROM background_job WHERE id = {other}")
    site.sql(f"UPDATE background_job SET uid = 'elsewhere' WHERE id = {other}")
    site.sql("UPDATE background_job SET uid = ? WHERE id = ?", uid, job_id)


def swap_ids(site, job_id, other):
    """The whole contents of two rows."""
    for old, new in ((job_id, -1), (other, job_id), (-1, other)):
        site.sql(f"UPDATE background_job SET id = {new} WHERE id = {old}")


def write_by_hand(site, job_id, other):
    site.sql("UPDATE background_job SET sealed = ? WHERE id = ?", b'{"method": "GET", "target": "/admin"}', job_id)


def change_one_byte(site, job_id, other):
    sealed = bytearray(site.row(job_id).sealed)
    sealed[len(sealed) // 2] ^= 1
    site.sql("UPDATE background_job SET sealed = ? WHERE id = ?", bytes(sealed), job_id)


def take_away(site, job_id, other):
    site.sql("UPDATE background_job SET sealed = NULL WHERE id = ?", job_id)


CHANGES = [swap_sealed, swap_sealed_and_uid, swap_ids, write_by_hand, change_one_byte, take_away]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_row_does_not_run(site, change):
    """Neither with the token that was made before the change, nor with one that is made of it."""
    site.job = never
    job_id, other = site.start("/job", **CALL), site.start("/other")
    tokens = [site.token(job_id), site.launches.tokens[0].text]
    change(site, job_id, other)
    before = site.rows()
    for token in tokens:
        assert site.send(token, "/job").code == 410
    assert site.send(site.token(job_id), "/job").code in (403, 410)
    assert site.rows() == before
    with pytest.raises(SealError):
        site.backend.keyring.unseal(job_id, site.row(job_id).uid, site.row(job_id).sealed)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_row_that_is_taken_up_fails_and_says_so(tmp_path, change):
    """A row that waits and that the process itself takes up, as it does after a restart."""
    with serve_site(tmp_path, never) as site:
        job_id, other = site.start("/job", delay=500, **{**CALL, "by": None}), site.start("/other", delay=600)
        change(site, job_id, other)
        site.make_due()
        # Whichever of the two is due: times and contents may have changed places.
        [end] = wait_until(lambda: site.application.jobs.find(status=FINAL))
        assert end.status is Status.FAILED
        assert "changed" in end.status_text
        assert "a changed job ran" not in end.status_text


def test_columns_in_clear_are_for_peoples_eyes_only(site):
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}".encode()]

    site.job = app
    job_id = site.start("/job")
    site.sql("UPDATE background_job SET method = 'DELETE', path = '/admin'")
    site.work(job_id)
    assert site.status(job_id).status_text == "GET /job"


def test_a_row_of_somebody_without_the_key_does_not_run(tmp_path):
    """Somebody who can write rows makes a whole one, with a key of his own."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    with (
        wrap(folder, key="a key that the stranger has made up himself") as stranger,
        serve_site(tmp_path, never) as site,
    ):
        stranger.start("/job")
        mine = site.start("/mine", delay=600)
        [row] = stranger.rows()
        marks = ", ".join("?" * len(row))
        site.sql(f"INSERT INTO background_job VALUES ({marks})", 77, *row[1:])
        assert site.send(stranger.token(1), "/job").code == 403
        # Its key is not in the list: it is left to processes that have that key.
        assert site.send(site.backend.keyring.sign(WORKER, 77, 1, site.row(77).sealed).text).code == 409
        # The app's own jobs go on beside it, and it is left alone.
        site.application.jobs.cancel(mine)
        site.job = lambda environ, start_response: start_response("200 OK", TEXT) and []
        assert site.wait_for_end(site.start("/job")).status is Status.COMPLETED
        assert site.status(77).status is Status.STARTED


def test_an_error_of_the_app_is_logged_without_the_request(site, caplog):
    """The traceback has the code's lines and the error's own words, no values."""
    caplog.set_level(logging.DEBUG)

    def app(environ, start_response):
        secret = environ["HTTP_COOKIE"]
        raise RuntimeError(f"{len(secret)} characters")

    site.job = app
    job_id = site.start("/job", **CALL)
    site.work(job_id)
    assert "characters" in caplog.text
    assert find_canaries(caplog.text) == []
    assert sys.exc_info() == (None, None, None)


def test_an_ordinary_request_with_a_token_never_reaches_the_app(site):
    site.job = never
    assert call(site.application, make_environ("/page", HTTP_BACKJOB_TOKEN="guess")).code == 403
