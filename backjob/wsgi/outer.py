"""Environ keys that come from the server or from middleware outside of BackJob: the user's identity, and objects.

In the environ of a self-request they describe that request, which has no user. Knows the keys of servers and of
authentication modules; no jobs, no options.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

_IDENTITY = re.compile(
    r"(REDIRECT_)*(AUTH_TYPE|REMOTE_USER_.*|SSL_CLIENT_.*|HTTPS_(DN|CC)|OIDC_.*|MELLON_.*|(?i:shib)[-_].*"
    r"|AUTHENTICATE_.*|AUTHORIZE_.*|GSS_.*)"
    r"|REDIRECT_REMOTE_USER|(repoze\.who|repoze\.what|paste\.auth_tkt|authkit|django)\..*"
    r"|beaker\.(get_)?session|werkzeug\..*session|paste\.(flup_)?session.*|com\.saddi\.service\.session"
)
"""Keys by which authentication modules and session middleware identify the user (mod_ssl, mod_auth_openidc,
mod_auth_mellon, Shibboleth, mod_authnz_ldap, mod_auth_gssapi, uWSGI; Beaker, repoze.who, Paste, AuthKit)."""
_PARSED = re.compile(r"(webob|bottle)\..*|werkzeug\.request|paste\.(cookies|parsed_.*)")
"""Keys under which frameworks cache what they have parsed of the self-request."""
_HARMLESS = re.compile(
    r"(wsgi|asgi|wsgiorg|x-wsgiorg|a2wsgi|gunicorn|waitress|werkzeug|uwsgi|mod_wsgi|mod_ssl|cheroot|gevent|eventlet"
    r"|meinheld|hypercorn|granian|passenger|backjob|selector)\..*|headers_raw"
    r"|paste\.(config|testing.*|throw_errors)|beaker\.(get_)?cache"
)
"""Keys of servers and test clients, and of objects that are the same for each request."""
_RESERVED = re.compile(
    r"HTTP_.*|(wsgi|asgi|backjob)\..*|(SERVER|CONTENT)_.*|REQUEST_(METHOD|URI)|RAW_URI|HTTPS"
    r"|SCRIPT_NAME|PATH_INFO|QUERY_STRING|REMOTE_(ADDR|USER)"
)
"""Keys that follow from the job's request itself."""
_SERVER_VARIABLES = re.compile(r"(REDIRECT_)*(SSL|REMOTE|CONTEXT)_.*|ACTUAL_SERVER_PROTOCOL")
_TEXT, _OTHER = "t", "o"
"""First letters of digests: of texts, and of all other values."""
_PLAIN = (str, bytes, int, float, type(None))
_NAME_OF_IDENTITY = re.compile(
    r"(?!.*(request[-_]?id|url|path)$)"
    r"(.*[^a-z])?([a-z]*user(?![-_.]?agent)(s|_?id|_?name)?|uid|login"
    r"|(is[-_]?)?(admin|staff|internal|trusted|anonymous)|auth(n|z|enticated)?|email"
    r"|(account|member|customer|person|principal|identity|tenant|org(anization)?|company|workspace|owner|actor)(_?id)?"
    r"|claims?|roles?|groups?|permissions?|jwt|sub(ject)?|logged_?in|impersonat(ed|or))([^a-z].*)?",
    re.IGNORECASE,
)
"""Names by which middleware identifies a user, such as app.user, CURRENT_USER or shop.is_admin."""
_SCOPE_IDENTITY = frozenset({"auth", "session", "user"})
"""Keys of an ASGI scope that Starlette's middleware sets."""


def find_fault(names: object) -> str:
    """Return what is wrong with a list of environ keys, with ``*`` at the end for any ending, or ""."""
    if not isinstance(names, (list, tuple)):
        return "must be a list of environ keys"
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\x21-\x29\x2b-\x7e]{2,}\*?", name):
            return "must have keys of two or more printable ASCII characters, with a * at the end or without"
        if name.startswith("HTTP_"):
            return f"can't have {name}: that is a header, use forward_headers"
        if _RESERVED.fullmatch(name.rstrip("*")):
            return f"can't have {name}: it follows from the job's own request"
    return ""


def take_identity(environ: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Return the texts of an environ that identify the user, and those of these names. Objects can't go along."""
    names = tuple(names)
    return {
        key: value for key, value in environ.items() if issubclass(type(value), str) and _is_of_user(key, value, names)
    }


def drop_identity(server: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the self-request's environ without its identity keys, and without what was parsed of that request."""
    names = tuple(names)
    return {
        key: value for key, value in server.items() if not _is_of_user(key, value, names) and not _PARSED.fullmatch(key)
    }


def drop_scope_identity(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return an ASGI scope, which a bridge puts into the environ, without the user's identity."""
    return {key: value for key, value in scope.items() if key not in _SCOPE_IDENTITY}


def find_outer_objects(environ: Mapping[str, Any], own_key: str) -> dict[str, str]:
    """Return the keys of objects that a middleware outside of BackJob has put into an environ, and their types."""
    outer = _select_outer(environ, own_key)
    return {key: _name_type(value) for each in outer.items() for key, value in _objects(*each)}


def digest_outer_values(environ: Mapping[str, Any], own_key: str, names: Iterable[str]) -> dict[str, str]:
    """Return digests of the plain values of a user that a middleware outside of BackJob may have put into an environ.

    Only keys that name an identity count: other values often describe the request itself, as its path does. Left out
    are empty values, texts that go along with a job (under ``names``, the keys of ``forward_environ``), and variables
    of servers, of CGI and of the process's environment.
    """
    names, outer = tuple(names), _select_outer(environ, own_key)
    found = {key: value for key, value in outer.items() if _is_plain(value) and value}
    return {key: _digest(value) for key, value in found.items() if _is_foreign(key, value, names)}


def find_other_values(started: Mapping[str, str], arrived: Mapping[str, str]) -> dict[str, str]:
    """Return the keys whose digests differ between the request that started a job and the job's self-request.

    The value of each is the explanation.
    """
    keys = [key for key in {**started, **arrived} if started.get(key) != arrived.get(key)]
    return {key: _explain_value(key, is_text=(started.get(key) or arrived[key])[0] == _TEXT) for key in keys}


def _digest(value: Any) -> str:
    kind = _TEXT if isinstance(value, str) else _OTHER
    return kind + hashlib.sha256(repr(value).encode("utf-8", "replace")).hexdigest()[:16]


def _select_outer(environ: Mapping[str, Any], own_key: str) -> dict[str, Any]:
    """Return the items before BackJob's own key. A dict keeps the order of insertion, and the app adds keys later."""
    outer = takewhile(lambda key: key != own_key, environ)
    return {key: environ[key] for key in outer}


def _is_foreign(key: str, value: Any, names: Iterable[str]) -> bool:
    if not _NAME_OF_IDENTITY.fullmatch(key):
        return False
    if any(known.fullmatch(key) for known in (_RESERVED, _HARMLESS, _PARSED, _SERVER_VARIABLES)) or key in os.environ:
        return False
    return not (isinstance(value, str) and _is_of_user(key, value, names))


def _objects(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if key == "asgi.scope" and isinstance(value, Mapping):
        yield from ((f'asgi.scope["{name}"]', value[name]) for name in sorted(_SCOPE_IDENTITY & value.keys()))
    elif _is_of_user(key, value, ()):
        if not _is_plain(value):
            yield key, value
    elif not (_is_plain(value) or _HARMLESS.fullmatch(key) or _PARSED.fullmatch(key) or _is_ours(value)):
        yield key, value


def explain_outer(keys: Collection[str]) -> str:
    """Return why a job lacks what its user had under these keys, and the remedy; "" without keys."""
    if not keys:
        return ""
    come = "come" if len(keys) > 1 else "comes"
    return (
        f"{', '.join(sorted(keys))} {come} from a middleware outside of BackJob, which does not see the user's request "
        "when a job runs: wrap that middleware in BackJob"
    )


def _explain_value(key: str, *, is_text: bool) -> str:
    """Return explain_outer() for a plain value, with a second remedy: a text that forward_environ names."""
    explained = explain_outer([key])
    if not is_text:
        return f"{explained}, or let it set a text under a key that forward_environ names"
    return explained if find_fault([key]) else f'{explained}, or seal its text for jobs: forward_environ=["{key}"]'


def _is_of_user(key: str, value: Any, names: Iterable[str]) -> bool:
    if _IDENTITY.fullmatch(key) or type(value).__module__.startswith("beaker.session"):
        return True
    is_named = any(key == name or (name[-1] == "*" and key.startswith(name[:-1])) for name in names)
    return is_named and not _RESERVED.fullmatch(key)


def _is_plain(value: Any) -> bool:
    # By its real type: to ask a lazy object for its class may load it, or raise.
    kind = type(value)
    return issubclass(kind, _PLAIN) or (issubclass(kind, tuple) and all(map(_is_plain, value)))


def _is_ours(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "backjob"


def _name_type(value: Any) -> str:
    kind = value if issubclass(type(value), type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
