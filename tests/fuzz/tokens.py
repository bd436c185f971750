"""Requests with tokens that the app has not signed: each is refused, the app never runs, and no row changes."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from support.served import call, make_environ, wrap

from backjob.keyring import CHECK, MONITOR, PROBE, WORKER, Keyring
from backjob.middleware import TOKEN_KEY

from .judge import Judge, Table, start_job
from .mutations import mutate_text

KINDS = (MONITOR, WORKER, PROBE, CHECK)
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "CHICKEN", "CONNECT", "get", "", "OPTIONS", "TRACE")
LENGTHS = ("0", "-1", "1", "4", "99999", "many", "", "0x4", " 4 ", "\u0661", "1e3", None)
PATHS = ("/", "/job-1", "", "/start", "//evil.example/", "/%00", "/\xff")


@contextlib.contextmanager
def fuzz(folder: Path) -> Iterator[Callable[[random.Random], None]]:
    judge = Judge()
    with wrap(folder, judge) as site:
        jobs = [start_job(site, f"/job-{number}") for number in range(1, 4)]
        kinds = [(kind, job_id) for kind in KINDS for job_id in jobs]
        real = [site.token(job_id, kind) for kind, job_id in kinds]
        stranger = Keyring(["another key, which somebody else has made up"])
        forged = [stranger.sign(kind, job_id, 1, site.row(job_id).sealed or b"").text for kind, job_id in kinds]
        table = Table(site.path)

        def do_round(choose: random.Random) -> None:
            token = choose.choice(forged)
            if choose.random() < 0.9:
                token = choose.choice(real)
                while token in real:
                    token = mutate_text(choose, token, choose.choice([*real, *forged]))
            body, before = choose.randbytes(choose.randrange(8)), table.version
            more = {"CONTENT_LENGTH": choose.choice(LENGTHS), "wsgi.input": io.BytesIO(body), TOKEN_KEY: token}
            reply = call(site.application, make_environ(choose.choice(PATHS), choose.choice(METHODS), body, **more))
            assert (reply.code, reply.headers.get("Backjob-Proof")) == (403, None), f"{token!r}: {reply}"
            assert table.version == before, f"{token!r} has changed a row"
            judge.check()

        with contextlib.closing(table.connection):
            yield do_round
