"""Keys, and the tokens, proofs and sealed requests that are made with them. One subkey per purpose, newest key first.

Knows no socket, no database and no clock: a token is valid as long as the state of its record allows it.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from .errors import ConfigError, KeyringError
from .model.job import RECORD_VERSION, JobRequest
from .runtime.files import make_file, read_private_file

log = logging.getLogger("backjob")

MONITOR = "monitor"
WORKER = "worker"
PROBE = "probe"
CHECK = "check"
KINDS = frozenset({MONITOR, WORKER, PROBE, CHECK})
MIN_KEY_LENGTH = 32
_LEAST_DIFFERENT = 8
"""Number of different characters that a key must have. A random key of 32 hexadecimal digits has about 14."""
_SAMPLES = frozenset(
    {
        "asecretofatleast32charactersfromyourconfiguration",
        "thenewsecretof32ormorecharacters",
        "theoldsecretof32ormorecharacters",
        "onesecretof32ormorecharactersthesameforboth",
        "32ormorerandomcharacterswithoutblanks",
    }
)
"""Keys in examples of the documentation, now or before, in lower case and without punctuation."""
_GUESSABLE = f"that is an example from the documentation, or has fewer than {_LEAST_DIFFERENT} different characters"
_MAKE_KEY = 'python -c "import secrets; print(secrets.token_urlsafe(48))"'
_MAX_ID = 2**63 - 1
_FIRST_VERSION = 1
"""Version of records that are bound to no table, and whose body is Latin-1 in JSON."""
_FERNET = b"\x80"
"""First byte of Fernet's output, before base64."""
_REQUEST_FIELDS = frozenset(each.name for each in dataclasses.fields(JobRequest))


class TokenError(Exception):
    """The token is malformed, forged, or made with an unknown key."""


class SealError(Exception):
    """The sealed request can't be opened for this job: it was changed, or is of another job, table or key."""


class NewerRecordError(SealError):
    """A newer release sealed the request, and an older one must not run it."""


@dataclass(frozen=True)
class KeySource:
    """Source of the keys. ``name`` is for people: an option, a variable, or a file's path."""

    name: str
    read: Callable[[], list[str]] = field(repr=False)
    """Function that returns the keys. Raises KeyringError if there is no key."""
    file: Path | None = None
    """Key file, or None for other sources."""
    restore: Callable[[], None] = field(default=lambda: None, repr=False)
    """Function that creates the key file again if it was deleted after it was read."""


@dataclass(frozen=True)
class Token:
    """Verified token of a self-request. ``secret`` is the subkey for proofs, of the key that signed the token."""

    kind: str
    job_id: int
    attempt: int
    nonce: str = field(repr=False)
    digest: str = field(repr=False)
    text: str = field(repr=False)
    secret: bytes = field(repr=False)

    def is_bound_to(self, sealed: bytes | None) -> bool:
        """Return whether it was made for a record with exactly this sealed request."""
        return sealed is not None and hmac.compare_digest(self.digest, _digest(sealed))

    def prove(self, outcome: str) -> str:
        """Return the proof (43 characters) that only a holder of the key can answer to the request with this token."""
        return _b64(hmac.digest(self.secret, f"{self.text} {outcome}".encode(), "sha256"))


@dataclass(frozen=True)
class _Subkeys:
    key_id: str
    token: bytes = field(repr=False)
    proof: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    fernet: Fernet = field(repr=False)

    @classmethod
    def derive(cls, key: str) -> _Subkeys:
        def subkey(purpose: str) -> bytes:
            return hmac.digest(key.encode(), f"backjob/1/{purpose}".encode(), "sha256")

        return cls(
            key_id=subkey("id").hex()[:16],
            token=subkey("token"),
            proof=subkey("proof"),
            digest=subkey("digest"),
            fernet=Fernet(base64.urlsafe_b64encode(subkey("seal"))),
        )


class Keyring:
    """All keys of the deployment. The first one signs and seals, any of them verifies and opens.

    ``name_place`` returns the name of the table whose records are sealed here: see ``Store.place``.
    """

    def __init__(self, keys: Sequence[str], name_place: Callable[[], str] = str) -> None:
        self._name_place = name_place
        self._subkeys = [_Subkeys.derive(key) for key in keys]
        self._newest = self._subkeys[0]
        self._fernets = MultiFernet([subkeys.fernet for subkeys in self._subkeys])
        self.key_id = self._newest.key_id
        self.key_ids = tuple(subkeys.key_id for subkeys in self._subkeys)

    def sign(self, kind: str, job_id: int, attempt: int, sealed: bytes, nonce: str | None = None) -> Token:
        """Make a token that binds the kind of request, the job, the attempt and its sealed request."""
        nonce = nonce or new_nonce()
        digest = _digest(sealed)
        head = f"{kind}.{job_id}.{attempt}.{nonce}.{digest}"
        text = f"{head}.{_mac(self._newest.token, head)}"
        return Token(kind, job_id, attempt, nonce, digest, text, self._newest.proof)

    def verify(self, text: str) -> Token:
        """Read a token. Raises TokenError if none of the keys has signed it."""
        if len(text) > 256 or not text.isascii():
            raise TokenError
        head, _, mac = text.rpartition(".")
        for subkeys in self._subkeys:
            if hmac.compare_digest(mac, _mac(subkeys.token, head)):
                kind, job_id, attempt, nonce, digest, *more = head.split(".")
                if more or kind not in KINDS or int(job_id) > _MAX_ID:  # such as one of a newer release
                    raise TokenError
                return Token(kind, int(job_id), int(attempt), nonce, digest, text, subkeys.proof)
        raise TokenError

    def seal(self, job_id: int, uid: str, request: JobRequest) -> bytes:
        """Encrypt and authenticate a request, bound to the record of this id and uid in this table."""
        fields = {name: value for name, value in request.__dict__.items() if name != "body"}
        head = json.dumps([job_id, uid, fields, RECORD_VERSION, self._name_place()]).encode()
        # JSON has no line break. The body follows in bytes, because in JSON it could be several times as long.
        return base64.urlsafe_b64decode(self._newest.fernet.encrypt(head + b"\n" + request.body))

    def unseal(self, job_id: int, uid: str, sealed: bytes | None) -> JobRequest:
        """Return the request. Raises SealError unless it was sealed for this record.

        The version is sealed too, because the column in the row, which queries use, can be changed without the key.
        Unknown fields are ignored. Raises NewerRecordError for an unknown version.
        """
        try:
            head, _, body = self._open(sealed or b"").partition(b"\n")
            sealed_id, sealed_uid, fields, version, *places = [*json.loads(head), _FIRST_VERSION][:5]
            if (sealed_id, sealed_uid) != (job_id, uid):
                raise SealError
            if version > RECORD_VERSION:
                raise NewerRecordError
            if version == _FIRST_VERSION:
                body = fields["body"].encode("latin-1")
            elif places != [self._name_place()]:
                raise SealError
            known = {name: value for name, value in fields.items() if name in _REQUEST_FIELDS}
            return JobRequest(**{**known, "body": body})
        except (InvalidToken, TypeError, ValueError, KeyError, AttributeError):
            raise SealError from None

    def _open(self, sealed: bytes) -> bytes:
        is_text = not sealed.startswith(_FERNET)  # written by a release of the first version
        return self._fernets.decrypt(sealed if is_text else base64.urlsafe_b64encode(sealed))

    def digest(self, message: str) -> list[str]:
        """Return a digest of the message for each key, newest first. Without the key it reveals nothing."""
        return [_mac(subkeys.digest, message) for subkeys in self._subkeys]

    def is_digest(self, text: str, message: str) -> bool:
        """Return whether this is the message's digest with one of the keys."""
        return any(hmac.compare_digest(text.encode(), digest.encode()) for digest in self.digest(message))


def new_nonce() -> str:
    """Return twelve random characters, which identify a launch."""
    return secrets.token_urlsafe(9)


class KeyFile:
    """A key file, and the key that this process has read from it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: str | None = None

    def read(self) -> list[str]:
        """Return the key. Raises KeyringError."""
        self._key = read_or_make_key_file(self._path)
        return [self._key]

    def restore(self) -> None:
        """Create the file again if it was deleted. Otherwise the next process would create another key."""
        if self._key is None or self._path.exists():
            return
        with contextlib.suppress(OSError):  # the folder is gone or read-only
            make_file(self._path, self._key + "\n")
            log.error("The key file %s was deleted. It has been created again with the same key", self._path)


def read_or_make_key_file(path: Path) -> str:
    """Return the key kept in this file. It is made if it is missing (mode 0600; of racing processes one wins).

    Raises KeyringError if the file can be neither read nor made, if others can use it, or if it holds no key.
    """
    try:
        make_file(path, secrets.token_urlsafe(48) + "\n")
        key = read_private_file(path).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyringError(f"The key file {path} can't be used: {error}. Set key= or $BACKJOB_KEY.") from error
    if len(key.splitlines()) > 1:
        raise KeyringError(
            f"The key file {path} has more than one line: it must be one key. Several go into key=[new, old] or "
            "$BACKJOB_KEY."
        )
    if len(key) < MIN_KEY_LENGTH:
        raise KeyringError(f"The key file {path} holds no key of {MIN_KEY_LENGTH} or more characters. Delete it.")
    if _is_guessable(key):
        raise KeyringError(f"The key file {path} holds a key {_GUESSABLE}. Delete the file: a new key is then made.")
    return key


def check_keys(keys: object, source: str) -> list[str]:
    """Return the keys as a list. Raises ConfigError, which names the source and never the key."""
    listed = [keys] if isinstance(keys, str) else list(keys) if isinstance(keys, (list, tuple)) else []
    if not listed or not all(_is_key(key) for key in listed):
        raise ConfigError(
            f"{source} must be a str of {MIN_KEY_LENGTH} or more characters, or a list of such, newest first"
        )
    if any(map(_is_guessable, listed)):
        raise ConfigError(f"{source} must be a random key, but contains one {_GUESSABLE}. Make one with: {_MAKE_KEY}")
    return listed


def _is_key(key: object) -> bool:
    # A lone surrogate can't be encoded.
    return isinstance(key, str) and len(key) >= MIN_KEY_LENGTH and not any("\ud800" <= each <= "\udfff" for each in key)


def _is_guessable(key: str) -> bool:
    letters = "".join(filter(str.isalnum, key)).lower()
    return len(set(key)) < _LEAST_DIFFERENT or any(sample in letters for sample in _SAMPLES)


def _mac(key: bytes, message: str) -> str:
    return _b64(hmac.digest(key, message.encode(), "sha256"))


def _digest(sealed: bytes) -> str:
    return _b64(hashlib.sha256(sealed).digest()[:16])


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
