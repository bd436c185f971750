"""Without the key nobody starts, runs or ends a job: what a wrong token meets, and what ten thousand fuzzed ones do."""

import io
import logging
import random
import string
from datetime import datetime, timedelta, timezone

import pytest
from support.served import KEY, call, make_environ, wrap

from backjob import Status
from backjob.keyring import CHECK, MONITOR, PROBE, WORKER, Keyring
from backjob.middleware import TOKEN_KEY
from backjob.model.app_id import name_app
from backjob.model.job import JobRequest, Move, NewJob
from backjob.transport.short_tokens import LIFETIME, ShortTokens, host_time

KINDS = [MONITOR, WORKER]
STRANGER = Keyring(["another key, which somebody else has made up"])


@pytest.fixture
def site(tmp_path):
    """A Site whose app may not be called in a job."""

    def run(environ, start_response):
        raise AssertionError("the job ran")

    with wrap(tmp_path, run) as site:
        yield site
        assert "the job ran" not in str(site.rows())


def bring(site, status, job_id):
    """Bring a job that waits to this status, by the moves that there are."""
    store = site.backend.store
    if status is not Status.STARTED:
        assert store.claim(job_id, site.row(job_id).attempt, "somebody", 30, 0)
    move = {Status.COMPLETED: Move.COMPLETE, Status.FAILED: Move.FAIL, Status.CANCELLED: Move.CANCEL}.get(status)
    assert move is None or store.move(move, job_id, text="it is over")
    assert site.status(job_id).status is status


def own_token(site, kind, job_id):
    """The token with which this very job is or was launched."""
    return site.launches.tokens[-1].text if kind == MONITOR else site.token(job_id)


def forge_with_another_key(site, kind, job_id):
    job = site.row(job_id)
    return STRANGER.sign(kind, job_id, job.attempt, job.sealed or b"").text


def cut(site, kind, job_id):
    return own_token(site, kind, job_id)[:-1]


def cut_in_front(site, kind, job_id):
    return own_token(site, kind, job_id)[1:]


def swap_id(site, kind, job_id):
    """The other job's token with this job's id."""
    other = site.start("/other")
    head, _, rest = own_token(site, kind, other).partition(f".{other}.")
    return f"{head}.{job_id}.{rest}"


def swap_kind(site, kind, job_id):
    other_kind = KINDS[kind == MONITOR]
    return own_token(site, kind, job_id).replace(kind, other_kind, 1)


def of_other_blob(site, kind, job_id):
    """Signed with the right key, but for what another job's record holds."""
    other = site.start("/other")
    return site.backend.keyring.sign(kind, job_id, 1, site.row(other).sealed).text


def of_other_attempt(site, kind, job_id):
    job = site.row(job_id)
    return site.backend.keyring.sign(kind, job_id, job.attempt + 1, job.sealed or b"").text


def of_no_job(site, kind, job_id):
    return site.backend.keyring.sign(kind, job_id + 1000, 1, site.row(job_id).sealed or b"").text


def empty(site, kind, job_id):
    return ""


def with_a_line_end(site, kind, job_id):
    return own_token(site, kind, job_id) + "\n"


def in_upper_case(site, kind, job_id):
    return own_token(site, kind, job_id).upper()


FORGERIES = [
    forge_with_another_key,
    cut,
    cut_in_front,
    swap_id,
    swap_kind,
    of_other_blob,
    of_other_attempt,
    of_no_job,
    empty,
    with_a_line_end,
    in_upper_case,
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_token_changes_nothing(site, kind, status, forge):
    job_id = site.start("/job")
    if status is not Status.STARTED:
        bring(site, status, job_id)
    token = forge(site, kind, job_id)
    before = site.rows()
    for method in ("POST", "GET", "HEAD"):
        reply = site.send(token, "/job", method)
        assert 400 <= reply.code < 500
        assert site.rows() == before


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.STARTED])
@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_token_changes_nothing(site, kind, status):
    """The token that did launch this job, sent once more after that."""
    job_id = site.start("/job")
    token = own_token(site, kind, job_id)
    bring(site, status, job_id)
    before = site.rows()
    assert 400 <= site.send(token, "/job").code < 500
    assert site.rows() == before


def test_a_replayed_launch_does_not_launch_twice(site):
    """While the job waits: whoever holds it has it, the same launch once more is refused."""
    job_id = site.start("/job", delay=600)
    token = own_token(site, MONITOR, job_id)
    assert site.send(token).code == 202
    before = site.rows()
    assert site.send(token).code == 409
    assert site.rows() == before


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_of_an_earlier_attempt_changes_nothing(site, kind, status):
    job_id = site.start("/job", retries=1)
    token = own_token(site, kind, job_id)
    assert site.backend.store.claim(job_id, 1, "somebody", 30, 0)
    assert site.backend.store.move(Move.RETRY, job_id, attempt=1, progress=0, delay=600)
    bring(site, status, job_id)
    before = site.rows()
    assert 400 <= site.send(token, "/job").code < 500
    assert site.rows() == before


@pytest.mark.parametrize("status", Status)
def test_a_probe_changes_nothing(site, status):
    """It asks whether this is the app itself, and gets a proof that only the app can give."""
    job_id = site.start("/job")
    bring(site, status, job_id)
    before = site.rows()
    token = site.backend.keyring.sign(PROBE, job_id, 1, b"")
    reply = site.send(token.text)
    anyone, this_app = reply.headers["Backjob-Proof"].split()
    assert (reply.code, anyone) == (200, token.prove("here"))
    assert this_app == token.prove(f"here {site.backend.self_request.app}") != anyone
    assert site.rows() == before


@pytest.fixture
def late(site):
    """Return a maker of tokens whose clock is 61 seconds slow."""
    return ShortTokens(site.backend.keyring, lambda: host_time() - timedelta(seconds=LIFETIME + 1))


def test_a_probe_works_once_and_for_a_minute(site, late):
    """After that it gets the same proof, for a proxy may have sent it twice or late, and nothing else happens."""
    site.start("/job")
    paths = site.backend.self_request.paths
    fresh = paths.tokens.sign(PROBE, 7, 1)
    assert site.send(fresh.text, SCRIPT_NAME="/here").code == 200
    for token in (fresh, late.sign(PROBE, 7, 1)):
        reply = site.send(token.text, SCRIPT_NAME="/elsewhere")
        assert (reply.code, reply.headers["Backjob-Proof"].split()[0]) == (403, token.prove("here"))
    assert paths._mount == "/here"
    assert site.send(site.backend.keyring.sign(PROBE, 7, 1, b"", "no time:7").text).code == 403
    # During a deploy the processes of an older release send probes that have no time.
    assert [site.send(site.backend.keyring.sign(PROBE, 7, 1, b"").text).code for _ in range(2)] == [200, 200]


def test_a_check_is_answered_once_in_the_whole_deployment(site, late, tmp_path):
    keyring, tokens = site.backend.keyring, site.backend.self_request.paths.tokens
    fresh = tokens.sign(CHECK, 0, 1)
    with wrap(tmp_path) as another:
        assert (site.send(fresh.text).code, another.send(fresh.text).code) == (200, 403)
    for token in (fresh, late.sign(CHECK, 0, 1), keyring.sign(CHECK, 0, 1, b"")):
        reply = site.send(token.text)
        assert (reply.code, reply.body) == (403, b"backjob: forbidden\n")
    site.start("/job")
    site.sql("ALTER TABLE background_job_process RENAME TO elsewhere")
    fresh = tokens.sign(CHECK, 0, 1)  # what it is for, among others, is to say that the database is away
    assert [site.send(fresh.text).code for _ in range(2)] == [200, 403]


def test_a_check_of_a_host_whose_clock_is_ahead_is_remembered_as_long_as_it_is_valid(site):
    ahead = ShortTokens(site.backend.keyring, lambda: host_time() + timedelta(seconds=4))
    token = ahead.sign(CHECK, 0, 1)
    assert site.send(token.text).code == 200
    made_at = datetime.fromtimestamp(int(token.nonce.partition(":")[0]), timezone.utc)
    ((until,),) = site.sql("SELECT alive_until FROM background_job_process WHERE name LIKE 'token-%'")
    assert datetime.fromisoformat(f"{until}+00:00") >= made_at + timedelta(seconds=LIFETIME)


def test_refused_tokens_are_counted_in_the_log(site, caplog):
    site.start("/job")
    for number in range(3):
        site.send(f"forged-{number}", REMOTE_ADDR="192.0.2.7")
    probe = site.backend.self_request.paths.tokens.sign(PROBE, 7, 1)
    for _ in range(3):
        site.send(probe.text, REMOTE_ADDR="192.0.2.8")
    site.application.close()  # what is left, which a keeper would log after a minute
    assert [each.getMessage() for each in caplog.records if each.name == "backjob.security"] == [
        "Requests with a refused token: 1 from 192.0.2.7",
        "Requests with a refused token: 2 from 192.0.2.7, 2 from 192.0.2.8 (too old, or used before)",
    ]


def test_visitors_with_tokens_do_not_fill_the_log_while_there_is_no_key(tmp_path, caplog):
    (tmp_path / "jobs.sqlite3.key").write_text("too short")
    with wrap(tmp_path, key=None) as site:
        assert [site.send(f"forged-{number}").code for number in range(3)] == [503, 503, 503]
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1


def test_tokens_of_an_older_key_still_count(site, tmp_path):
    older = site.token(site.start("/job"))
    with wrap(tmp_path, key=["a newer key for tests, and for nothing else", KEY]) as rotated:
        assert rotated.send(older, "/job").code == 200


def test_a_refusal_tells_nothing(site):
    replies = [site.send(forge(site, WORKER, site.start("/job"))) for forge in (forge_with_another_key, cut, empty)]
    assert len({(reply.status, reply.body, tuple(reply.headers.items())) for reply in replies}) == 1
    assert "Backjob-Proof" not in replies[0].headers


ALPHABET = string.ascii_letters + string.digits + string.punctuation + " \t\xff\xe9\0\r\n"
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "CHICKEN", "CONNECT", "get", "", "OPTIONS", "TRACE"]
LENGTHS = ["0", "-1", "1", "4", "99999", "many", "", "0x4", " 4 ", "\u0661", "1e3", None]
PATHS = ["/", "/job", "", "/start", "//evil.example/", "/%00", "/\xff"]


def mutate(choose, text):
    """One small change at a random place, or none that resembles anything."""
    place = choose.randrange(len(text) + 1)
    letter = choose.choice(ALPHABET)
    return choose.choice(
        [
            lambda: text[:place] + letter + text[place:],
            lambda: text[:place] + text[place + 1 :],
            lambda: text[:place] + letter + text[place + 1 :],
            lambda: text[:place],
            lambda: text[place:],
            lambda: text + text,
            lambda: text[:place].swapcase() + text[place:],
            lambda: text.replace(".", choose.choice(["", "..", ".-", ".0"]), choose.randrange(1, 5)),
            lambda: "".join(choose.choices(ALPHABET, k=choose.randrange(300))),
            lambda: "".join(choose.choices("0123456789.", k=choose.randrange(80))),
        ]
    )()


def test_ten_thousand_fuzzed_requests(site):
    choose = random.Random(20240229)
    real = []
    for status in Status:
        job_id = site.start("/job")
        real += [own_token(site, kind, job_id) for kind in KINDS]
        bring(site, status, job_id)
    before = site.rows()
    codes = set()
    for _ in range(10_000):
        token = choose.choice(real)
        while token in real:
            token = mutate(choose, token)
        body = choose.randbytes(choose.randrange(8))
        more = {"CONTENT_LENGTH": choose.choice(LENGTHS), "wsgi.input": io.BytesIO(body), TOKEN_KEY: token}
        environ = make_environ(choose.choice(PATHS), choose.choice(METHODS), body, **more)
        codes.add(call(site.application, environ).code)
    assert codes == {403}
    assert site.rows() == before
    # Real tokens, with all else wrong: those whose time is over are over.
    late = [token for token in real if not token.startswith(tuple(f"{kind}.1." for kind in KINDS))]
    for _ in range(500):
        more = {"CONTENT_LENGTH": choose.choice(LENGTHS), TOKEN_KEY: choose.choice(late)}
        assert call(site.application, make_environ(choose.choice(PATHS), choose.choice(METHODS), **more)).code in (
            409,
            410,
        )
    assert site.rows() == before


@pytest.mark.parametrize(("kind", "is_changed"), [("monitor", False), ("worker", False), ("worker", True)])
def test_a_job_of_another_app_is_not_run_here(site, kind, is_changed):
    """A proxy that takes a part of the path away may lead it to the wrong one of two apps with one table.

    ``is_changed``: somebody has made the row name this app: what counts is what is sealed.
    """
    request = JobRequest("GET", "/job", "", "/job", app="another", address="http://127.0.0.1:1")
    backend = site.backend
    app_id = backend.self_request.app_id if is_changed else name_app("another")
    new = NewJob(uid="1" * 32, request=request, key_id=backend.keyring.key_id, app_id=app_id)
    job_id, _ = backend.store.add(new, lambda job_id: backend.keyring.seal(job_id, new.uid, request))
    before = site.rows()
    reply = site.send(site.token(job_id, kind), "/job")
    assert reply.code == 410
    assert site.rows() == before
