"""Without the key nobody makes a token, a proof or a sealed request, and nothing that holds a secret shows it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import stat
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT, wait_until
from support.served import wrap

from backjob.config import make_config
from backjob.errors import ConfigError, KeyringError
from backjob.keyring import (
    MONITOR,
    PROBE,
    WORKER,
    Keyring,
    SealError,
    TokenError,
    check_keys,
    read_or_make_key_file,
)
from backjob.model.job import Job, JobRequest, NewJob, Status

OLD, NEW = "the old key, for tests and nothing else", "the new key, for tests and nothing else"
KEYRING = Keyring([OLD])
SEALED = b"a sealed request"
CANARY = "canary-4711"
REQUEST = JobRequest(
    method="POST",
    target=f"/a?{CANARY}",
    script_name="",
    path_info="/a",
    query_string=CANARY,
    body=CANARY.encode(),
    content_type="text/plain",
    headers={"HTTP_COOKIE": CANARY, "HTTP_AUTHORIZATION": CANARY},
    remote_addr=f"{CANARY}.1",
    remote_user=f"{CANARY}-user",
)


def is_token(text: str, keyring: Keyring = KEYRING) -> bool:
    try:
        keyring.verify(text)
    except TokenError:
        return False
    return True


class TestTokens:
    @pytest.mark.parametrize("kind", [MONITOR, WORKER, PROBE])
    @pytest.mark.parametrize(("job_id", "attempt"), [(1, 1), (7, 3), (2**63 - 1, 2**31 - 1)])
    def test_own_token_is_read_again(self, kind: str, job_id: int, attempt: int) -> None:
        token = KEYRING.sign(kind, job_id, attempt, SEALED)
        assert KEYRING.verify(token.text) == token
        assert (token.kind, token.job_id, token.attempt) == (kind, job_id, attempt)
        assert len(token.text) <= 128

    def test_a_nonce_may_be_given_and_is_else_new(self) -> None:
        assert KEYRING.verify(KEYRING.sign(MONITOR, 1, 1, SEALED, "nonce").text).nonce == "nonce"
        assert len({KEYRING.sign(MONITOR, 1, 1, SEALED).nonce for _ in range(100)}) == 100

    def test_forged_at_every_character(self) -> None:
        text = KEYRING.sign(WORKER, 17, 1, SEALED).text
        for i, character in itertools.product(range(len(text)), "aB0.-_~ é"):
            if text[i] != character:
                assert not is_token(text[:i] + character + text[i + 1 :]), (i, character)

    def test_cut_at_every_length_and_longer(self) -> None:
        text = KEYRING.sign(WORKER, 17, 1, SEALED).text
        assert is_token(text)
        for i in range(len(text)):
            assert not is_token(text[:i])
            assert not is_token(text[i + 1 :])
            assert not is_token(text[:i] + text[i + 1 :])
        for longer in (text + "a", text + "=", text + ".", "0" + text, " " + text, text + " ", text * 2, text + "\n"):
            assert not is_token(longer)

    @pytest.mark.parametrize(
        "other",
        [
            KEYRING.sign(MONITOR, 17, 1, SEALED, "nonce"),
            KEYRING.sign(WORKER, 18, 1, SEALED, "nonce"),
            KEYRING.sign(WORKER, 17, 2, SEALED, "nonce"),
            KEYRING.sign(WORKER, 17, 1, SEALED, "other"),
            KEYRING.sign(WORKER, 17, 1, b"another request", "nonce"),
        ],
        ids=["kind", "job", "attempt", "nonce", "request"],
    )
    def test_parts_of_two_tokens_make_no_third(self, other: Any) -> None:
        mine = KEYRING.sign(WORKER, 17, 1, SEALED, "nonce")
        parts = list(zip(mine.text.split("."), other.text.split("."), strict=True))
        mixtures = {".".join(mixture) for mixture in itertools.product(*parts)}
        assert len(mixtures) == 4
        assert {mixture for mixture in mixtures if is_token(mixture)} == {mine.text, other.text}

    @pytest.mark.parametrize(
        "text", ["", ".", "....", ".....", "monitor.1.1.a.b.c", "é" * 9, "a" * 10_000, "\0", "\ud800"]
    )
    def test_what_is_no_token_at_all(self, text: str) -> None:
        assert not is_token(text)

    @given(st.text(max_size=300))
    def test_nothing_but_a_token_error_is_raised(self, text: str) -> None:
        assert not is_token(text)

    def test_a_token_of_no_kind_that_is_known(self) -> None:
        assert not is_token(KEYRING.sign("cancel", 1, 1, SEALED).text)

    def test_a_token_is_bound_to_the_sealed_request(self) -> None:
        token = KEYRING.verify(KEYRING.sign(WORKER, 1, 1, SEALED).text)
        assert token.is_bound_to(SEALED)
        for other in (None, b"", SEALED + b"x", SEALED[1:], SEALED.upper()):
            assert not token.is_bound_to(other)


class TestRotation:
    """A key list, newest first: the first signs, all verify."""

    def test_another_key_makes_nothing_that_counts(self) -> None:
        mine, other = Keyring([OLD]), Keyring([NEW])
        assert not is_token(other.sign(WORKER, 1, 1, SEALED).text, mine)
        with pytest.raises(SealError):
            mine.unseal(1, "uid", other.seal(1, "uid", REQUEST))
        assert mine.key_id != other.key_id
        assert not set(mine.digest("message")) & set(other.digest("message"))
        assert mine.sign(WORKER, 1, 1, SEALED, "n").prove("ended") != other.sign(WORKER, 1, 1, SEALED, "n").prove(
            "ended"
        )

    @pytest.mark.parametrize(
        ("signer", "verifier", "is_known"),
        [
            ([OLD], [NEW, OLD], True),
            ([NEW, OLD], [OLD], False),
            ([NEW, OLD], [OLD, NEW], True),
            ([OLD, NEW], [NEW, OLD], True),
            ([NEW, OLD], [NEW], True),
            ([OLD, NEW], [NEW], False),
        ],
    )
    def test_both_ways(self, signer: list[str], verifier: list[str], is_known: bool) -> None:
        ours, theirs = Keyring(signer), Keyring(verifier)
        token = ours.sign(WORKER, 1, 1, SEALED)
        assert is_token(token.text, theirs) is is_known
        assert (ours.key_id in theirs.key_ids) is is_known
        assert (ours.digest("message")[0] in theirs.digest("message")) is is_known
        sealed = ours.seal(1, "uid", REQUEST)
        if is_known:
            assert theirs.verify(token.text).prove("ended") == token.prove("ended")
            assert theirs.unseal(1, "uid", sealed) == REQUEST
        else:
            with pytest.raises(SealError):
                theirs.unseal(1, "uid", sealed)

    def test_one_subkey_per_purpose(self) -> None:
        subkeys = KEYRING._subkeys[0]
        assert len({subkeys.token, subkeys.proof, subkeys.digest, subkeys.key_id.encode()}) == 4
        assert all(len(key) == 32 for key in (subkeys.token, subkeys.proof, subkeys.digest))


class TestProofs:
    def test_only_this_token_and_this_outcome(self) -> None:
        token = KEYRING.sign(WORKER, 1, 1, SEALED, "nonce")
        others = [
            KEYRING.sign(WORKER, 1, 1, SEALED, "other"),
            KEYRING.sign(MONITOR, 1, 1, SEALED, "nonce"),
            KEYRING.sign(WORKER, 2, 1, SEALED, "nonce"),
            KEYRING.sign(WORKER, 1, 2, SEALED, "nonce"),
        ]
        proofs = [each.prove(outcome) for each in [token, *others] for outcome in ("ended", "full", "refused")]
        assert len(set(proofs)) == len(proofs)
        assert all(len(proof) == 43 for proof in proofs)
        assert not any(proof in token.text for proof in proofs)
        assert KEYRING.verify(token.text).prove("ended") == token.prove("ended")


texts = st.text(max_size=20)
requests = st.builds(
    JobRequest,
    method=texts,
    target=texts,
    script_name=st.none() | texts,
    path_info=texts,
    query_string=texts,
    body=st.binary(max_size=100),
    content_type=texts,
    headers=st.dictionaries(texts, texts, max_size=3),
    scheme=st.sampled_from(["http", "https"]),
    remote_addr=st.none() | texts,
    remote_user=st.none() | texts,
    redirect_ok=st.booleans(),
)


class TestSeal:
    @given(requests, st.integers(1, 2**63 - 1), texts)
    def test_opens_as_it_was(self, request: JobRequest, job_id: int, uid: str) -> None:
        assert KEYRING.unseal(job_id, uid, KEYRING.seal(job_id, uid, request)) == request

    @pytest.mark.parametrize(("job_id", "uid"), [(2, "uid"), (1, "uie"), (1, ""), (-1, "uid")])
    def test_does_not_open_for_another_record(self, job_id: int, uid: str) -> None:
        with pytest.raises(SealError):
            KEYRING.unseal(job_id, uid, KEYRING.seal(1, "uid", REQUEST))

    def test_does_not_open_when_changed(self) -> None:
        sealed = KEYRING.seal(1, "uid", REQUEST)
        for i in range(0, len(sealed), 5):
            for changed in (sealed[:i], sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :]):
                with pytest.raises(SealError):
                    KEYRING.unseal(1, "uid", changed)

    @pytest.mark.parametrize(
        "sealed",
        [None, b"", b"x", b"\xff" * 100, pytest.param(KEYRING._newest.fernet.encrypt(b"[1, 2]"), id="other content")],
    )
    def test_does_not_open_when_it_is_none(self, sealed: bytes | None) -> None:
        with pytest.raises(SealError):
            KEYRING.unseal(1, "uid", sealed)

    def test_shows_nothing_and_is_never_twice_the_same(self) -> None:
        sealed = KEYRING.seal(1, "uid", REQUEST)
        assert CANARY.encode() not in sealed
        assert sealed != KEYRING.seal(1, "uid", REQUEST)


def make_job() -> Job:
    now = datetime(2024, 1, 2, tzinfo=timezone.utc)
    secrets = {"uid": CANARY, "status_text": CANARY, "sealed": CANARY.encode(), "held_by": CANARY, "lease_by": CANARY}
    secrets |= {"past": CANARY, "error": CANARY, "location": CANARY}
    times = dict.fromkeys(["created_at", "due_at", "updated_at", "read_at"], now)
    nothing = dict.fromkeys(["started_at", "ended_at", "held_until", "lease_until", "launch_failed_at"])
    zeros = dict.fromkeys(["attempt", "retries", "progress", "priority", "error_timeout", "cancel_requested"], 0)
    zeros |= {"anonymous": False}
    zeros |= {"signs": 0}
    plain = {"id": 1, "status": Status.STARTED, "scope": "", "method": "POST", "path": "/a"}
    plain |= {"key_id": "k", "app_id": "a", "app_version": "", "record_version": 1}
    return Job(**secrets, **times, **nothing, **zeros, **plain)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "thing",
    [
        REQUEST,
        NewJob(uid=CANARY, request=REQUEST, key_id="k", unique_key=CANARY, held_by=CANARY),
        make_job(),
        KEYRING.sign(WORKER, 1, 1, SEALED),
        KEYRING,
        KEYRING._subkeys[0],
        make_config(
            {
                "key": OLD,
                "database": f"postgresql://user:{CANARY}@host/db",
                "connect_headers": {"Authorization": CANARY},
            }
        ),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_no_repr_shows_a_secret(thing: object) -> None:
    token = KEYRING.sign(WORKER, 1, 1, SEALED, "nonce")
    subkeys = KEYRING._subkeys[0]
    for text in (repr(thing), str(thing), repr([thing])):
        for secret in (CANARY, OLD, "nonce", token.digest, *token.text.split(".")[3:]):
            assert secret not in text
        for subkey in (subkeys.token, subkeys.proof, subkeys.digest):
            assert repr(subkey) not in text
            assert subkey.hex() not in text


_barrier: Any = None
RACERS, ROUNDS = 8, 25


def _join(barrier: Any) -> None:
    global _barrier  # noqa: PLW0603 - this is how a process of a pool keeps what it was given
    _barrier = barrier


def _race(folder: Path) -> list[str]:
    keys = []
    for i in range(ROUNDS):
        _barrier.wait(30)
        keys.append(read_or_make_key_file(folder / f"{i}.key"))
    return keys


class TestKeyFile:
    def test_racing_processes_all_read_the_same_key(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["backjob.keyring"])
        with ProcessPoolExecutor(RACERS, context, _join, (context.Barrier(RACERS),)) as pool:
            keys = [racer.result(60) for racer in [pool.submit(_race, tmp_path) for _ in range(RACERS)]]
        assert all(len(set(each)) == 1 for each in zip(*keys, strict=True))
        assert len(set(keys[0])) == ROUNDS
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{i}.key" for i in range(ROUNDS))

    @pytest.mark.parametrize("umask", [0, 0o022, 0o077])
    def test_is_made_for_its_owner_alone(self, umask: int, tmp_path: Path) -> None:
        path = tmp_path / "app.key"
        before = os.umask(umask)
        try:
            key = read_or_make_key_file(path)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(key) >= 32
        assert read_or_make_key_file(path) == key
        assert list(tmp_path.iterdir()) == [path]

    def test_each_is_another(self, tmp_path: Path) -> None:
        assert len({read_or_make_key_file(tmp_path / str(i)) for i in range(20)}) == 20

    def test_one_that_is_there_is_taken(self, tmp_path: Path) -> None:
        path = tmp_path / "app.key"
        path.write_text(f"\ufeff\n  {OLD}  \r\n\n")
        path.chmod(0o600)
        assert read_or_make_key_file(path) == OLD

    @pytest.mark.parametrize(
        "content",
        [
            *[b"", b"\n", b"canary", b"canary" + b" " * 40, b"\xff" * 40, b"canary1" * 6],
            *[f"{OLD}\n{NEW}\n".encode(), f"# canary\n{OLD}".encode()],
        ],
    )
    def test_one_without_a_key_is_refused(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "app.key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(KeyringError, match=r"app\.key") as caught:
            read_or_make_key_file(path)
        assert "canary" not in str(caught.value)
        assert path.read_bytes() == content

    def test_one_that_can_not_be_read_or_made_is_told(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "missing" / "app.key"):
            with pytest.raises(KeyringError, match="Set key="):
                read_or_make_key_file(path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
    def test_one_that_others_can_use_is_refused(self, mode: int, tmp_path: Path) -> None:
        path = tmp_path / "app.key"
        key = read_or_make_key_file(path)
        path.chmod(mode)
        with pytest.raises(KeyringError, match=f"mode is 0{mode:o}.*chmod 600 {path}") as caught:
            read_or_make_key_file(path)
        assert key not in str(caught.value)
        path.chmod(0o400)
        assert read_or_make_key_file(path) == key

    def test_a_link_is_refused_wherever_it_leads(self, tmp_path: Path) -> None:
        """Somebody who can write to the folder has put it there."""
        own, path = tmp_path / "own.key", tmp_path / "app.key"
        read_or_make_key_file(own)
        for target in (own, tmp_path / "missing"):
            path.symlink_to(target)
            with pytest.raises(KeyringError, match="symbolic link"):
                read_or_make_key_file(path)
            path.unlink()
        assert sorted(tmp_path.iterdir()) == [own]

    def test_what_is_no_file_is_refused_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "app.key"
        os.mkfifo(path, 0o600)
        with pytest.raises(KeyringError, match="no regular file"):
            read_or_make_key_file(path)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_one_of_another_user_is_refused_and_that_of_root_is_not(self, tmp_path: Path) -> None:
        path = tmp_path / "app.key"
        key = read_or_make_key_file(path)
        os.chown(path, 4711, -1)
        with pytest.raises(KeyringError, match=r"belongs to user 4711.*run this as that user"):
            read_or_make_key_file(path)
        os.chown(path, 0, -1)
        assert read_or_make_key_file(path) == key

    def test_a_deleted_file_is_created_again(self, tmp_path: Path) -> None:
        """Without it, a new process would create another key, and the processes would refuse each other's requests."""
        with wrap(tmp_path, keeper=True, key=None) as site:
            site.start("/job")
            path = site.application._assembly._keys.file
            assert path is not None
            key = path.read_text()
            path.unlink()
            wait_until(path.exists)
            assert path.read_text() == key
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes everything")
    def test_modes_are_heeded(self, tmp_path: Path) -> None:
        path = tmp_path / "app.key"
        path.write_text(OLD)
        path.chmod(0)
        with pytest.raises(KeyringError, match="Set key="):
            read_or_make_key_file(path)


SAMPLES = [
    "a secret of at least 32 characters, from your configuration",
    "the new secret, of 32 or more characters",
    "The-Old-Secret,-of-32-or-more-characters",
    "one secret of 32 or more characters, the same for both",
    "32-or-more-random-characters-without-blanks",
]


class TestKeys:
    @pytest.mark.parametrize("keys", [OLD, [OLD], (NEW, OLD), "01234567" * 4])
    def test_are_listed(self, keys: Any) -> None:
        assert check_keys(keys, "key") == ([keys] if isinstance(keys, str) else list(keys))

    @pytest.mark.parametrize(
        "keys", ["", "canary", "x" * 31, [], (), [OLD, "canary"], [None], [OLD.encode()], 7, None, {OLD}]
    )
    def test_are_refused_without_being_shown(self, keys: Any) -> None:
        with pytest.raises(ConfigError, match=r"^\$BACKJOB_KEY must be .*32") as caught:
            check_keys(keys, "$BACKJOB_KEY")
        assert "canary" not in str(caught.value)
        assert OLD not in str(caught.value)

    @pytest.mark.parametrize("key", [*SAMPLES, f"{SAMPLES[0]}1", "canary!" * 6, "k" * 64])
    def test_samples_and_monotonous_keys_are_refused(self, key: str) -> None:
        for keys in (key, [OLD, key]):
            with pytest.raises(ConfigError, match=r"\$BACKJOB_KEY must be a random key.*token_urlsafe\(48\)") as caught:
                check_keys(keys, "$BACKJOB_KEY")
            assert key not in str(caught.value)

    def test_the_documentation_has_no_key_that_works(self) -> None:
        """Somebody would use it."""
        pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.py")]
        key = re.compile(r"""\bkey ?= ?(\[?["'][^"'\n]{32,}|[-\w,.]{32,})""")
        assert [found for page in pages for found in key.findall(page.read_text())] == []
