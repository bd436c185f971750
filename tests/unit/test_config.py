"""Every option: what it may not be is told at construction, by name and without a secret; text settings read alike."""

from __future__ import annotations

import configparser
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from backjob import BackJob, ConfigError
from backjob.config import Config, make_config, read_settings
from backjob.middleware import make_filter
from backjob.model.address import Address
from backjob.wsgi.headers import FORWARD_HEADERS

CANARY = "canary-4711"
KEY = "the-key-of-a-test-and-of-no-user"
NO_NUMBERS = [None, "5", "", True, [], math.nan, math.inf, -1, -0.001, 1j]
NO_INTEGERS = [None, "5", True, [], -1, 2**31, 1.5]
WHOLE = "a whole number from 0 to 2147483647"
TIMEOUT = "0 (never) or a number of seconds from 0.5 to 1000000000"
NO_BOOLS = [None, 0, 1, "true", ""]


async def wait_for_it(job: Any) -> None:
    """Nobody would await it."""


WRONG: dict[str, list[Any]] = {
    "database": [None, 7, b"sqlite:///x", ["sqlite:///x"], object()],
    "cache": ["dogpile.cache.memory", object()],
    "key": ["", CANARY, [], [CANARY], [KEY, CANARY], [None], KEY.encode(), 7],
    "table_name": [None, "", "1a", "a b", "a-b", "a.b", "a;drop", "ä", "a" * 41, "a\n", 7],
    "create_table": NO_BOOLS,
    "cache_prefix": [None, "a b", "ä", "a" * 65, "a\n"],
    "error_timeout": [*NO_NUMBERS, 0.1, 0.49, 1e10],
    "user_agent": [None, "", " a", "a\r\nX: y", "ä", "a" * 201, 7],
    "backlog_days": NO_NUMBERS,
    "all_backlog_days": NO_NUMBERS,
    "connect": ["", "localhost:80", "ftp://a", f"http://u:{CANARY}@a", "http://a..b", 7, b"http://a"],
    "site_url": ["shop.example", "https://user:word@shop.example", 5],
    "ca_file": ["", "/nonexistent.pem", "/", "/dev/null", 7, []],
    "connect_headers": [
        None,
        "A: b",
        [("A", "b")],
        {"A B": "c"},
        {"A": f"{CANARY}\n"},
        {"A": f"{CANARY}é"},
        {"A": 7},
        {7: "a"},
        {f"X-{i}": "v" * 255 for i in range(4)},
        *[{name: "5"} for name in ("Host", "content-length", "Transfer-Encoding", "Connection", "Content-Type")],
        *[{name: "5"} for name in ("user-agent", "Backjob-Token", "BACKJOB-TOKEN")],
    ],
    "close_delay": [*NO_NUMBERS, 0, 0.009, 61],
    "monitor": [None, "", "Thread", "process", [], 7],
    "lease": [*NO_NUMBERS, 0, 0.9, 86401],
    "launch_timeout": NO_NUMBERS,
    "max_running": [*NO_INTEGERS, "", "automatic", "5"],
    "max_running_per_process": [*NO_INTEGERS, "auto"],
    "max_running_per_scope": [
        *NO_INTEGERS,
        "a=1",
        [("a", 1)],
        *[{"a": wrong} for wrong in (*NO_INTEGERS, "auto")],
        *[{wrong: 1} for wrong in (None, 7, "", "a" * 256, b"a")],
    ],
    "keeper": NO_BOOLS,
    "app_name": ["", "a b", "ä", "a" * 65, "a\n", 7, b"a", True],
    "app_version": ["", "a b", "ä", "a" * 65, "a\n", 7, b"a", True],
    "forward_headers": [None, "X-A", 7, ["A B"], ["A\n"], [7], [b"A"], [""]],
    "forward_environ": [
        *[None, "eppn", 7, {"eppn": 1}, [7], [b"eppn"], [""], ["a"], ["*"], ["A*"], ["OIDC_*_email"], ["a b"], ["a\n"]],
        *[["HTTP_X_USER"], ["HTTP_*"], ["wsgi.errors"], ["PATH_INFO"], ["SERVER_NAME"], ["REMOTE_USER"]],
    ],
    "redirect_ok": NO_BOOLS,
    "max_output": [*NO_INTEGERS, "auto"],
    "max_request": [*NO_INTEGERS, "auto"],
    "identify": ["REMOTE_USER", 7],
    **{name: ["print", 7, [], wait_for_it] for name in ("on_start", "on_update", "on_end")},
    "launcher": ["self", 7, lambda: None],
    "environ_key": [None, "", "a b", "ä", 7],
}

DOTTED = ("cache", "max_running_per_scope", "redirect_ok", "identify", "on_start", "on_update", "on_end", "launcher")
DEFAULTS: dict[str, Any] = {
    "database": "sqlite:///backjob.sqlite3",
    "cache": None,
    "key": None,
    "table_name": "background_job",
    "create_table": True,
    "cache_prefix": "backjob-",
    "error_timeout": 120,
    "backlog_days": 30,
    "all_backlog_days": 60,
    "connect": None,
    "site_url": None,
    "ca_file": None,
    "connect_headers": {},
    "close_delay": 0.2,
    "monitor": "auto",
    "lease": 30,
    "launch_timeout": 60,
    "max_running": "auto",
    "max_running_per_process": 0,
    "max_running_per_scope": 0,
    "keeper": True,
    "app_name": None,
    "app_version": None,
    "forward_environ": (),
    "redirect_ok": False,
    "max_output": 1048576,
    "max_request": 1048576,
    "identify": None,
    **dict.fromkeys(["on_start", "on_update", "on_end"]),
    "launcher": None,
    "environ_key": "backjob",
}


def app(environ: Any, start_response: Any) -> list[bytes]:
    raise AssertionError("nothing is asked for here")


def test_defaults_are_those_of_the_contract() -> None:
    config = make_config({})
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
    assert config.user_agent.startswith("backjob/")
    assert {"X-CSRF-Token", "Accept-Language", "traceparent", "X-Request-ID"} <= set(config.forward_headers)
    assert {each.name for each in dataclasses.fields(Config)} == {*DEFAULTS, "user_agent", "forward_headers"}
    assert {each.name for each in dataclasses.fields(Config) if each.metadata["is_dotted"]} == {*DOTTED}
    assert set(WRONG) == {each.name for each in dataclasses.fields(Config)}


@pytest.mark.parametrize(
    ("option", "value"),
    [pytest.param(name, value, id=f"{name}-{i}") for name in WRONG for i, value in enumerate(WRONG[name])],
)
def test_wrong_value_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"\b{option}\b") as caught:
        BackJob(app, **{"key": KEY, option: value})
    assert isinstance(caught.value, ValueError)
    assert CANARY not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        *[("max_running", value, f'{WHOLE}, or "auto"') for value in (2**31, -1, "many")],
        ("max_running_per_process", 2**31, WHOLE),
        ("max_running_per_scope", "many", f"{WHOLE}, or a mapping of scopes to such numbers"),
        *[("lease", value, "a number from 1 to 86400") for value in ("30s", 0.5, math.nan, "")],
        *[("launch_timeout", value, "a number from 0 to 1000000000") for value in (-1, math.inf, "1 min")],
        ("close_delay", 0, "a number from 0.01 to 60"),
        *[("error_timeout", value, TIMEOUT) for value in (0.1, -1, math.nan, math.inf, "2 min")],
    ],
)
def test_what_is_refused_is_told_what_is_allowed(option: str, value: Any, allowed: str, as_text: bool) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(read_settings({option: str(value)}, "") if as_text else {option: value})
    assert str(caught.value) == f"{option} must be {allowed}"


def test_a_scope_is_told_what_its_limit_may_be() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(read_settings({"max_running_per_scope": "mail=x"}, ""))
    assert str(caught.value) == f"max_running_per_scope must have {WHOLE} for 'mail'"


@pytest.mark.parametrize("text", ["auto", "Auto", " AUTO\n"])
def test_auto_can_be_written_as_any_word_of_settings(text: str) -> None:
    assert read_settings({"max_running": text}, "") == {"max_running": "auto"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("key", [KEY, KEY[::-1]]),
        ("key", (KEY,)),
        ("table_name", "_a1"),
        ("error_timeout", 0),
        ("error_timeout", 0.5),
        ("backlog_days", 0),
        ("max_running", 0),
        ("max_running", 1),
        ("max_running_per_process", 3),
        ("max_running_per_scope", 2),
        ("max_running_per_scope", {}),
        ("max_running_per_scope", {"reports": 1, "a" * 255: 0}),
        ("max_output", 0),
        ("max_request", 0),
        ("keeper", False),
        ("close_delay", 0.01),
        ("lease", 1),
        ("monitor", "request"),
        ("monitor", "leave"),
        ("connect", "https://a.test"),
        ("connect", "unix:/run/app.sock"),
        ("connect_headers", {"Authorization": "Basic eA=="}),
        *[("app_name", name) for name in (None, "a", "shop.example", "~" * 64)],
        *[("app_version", version) for version in (None, "1", "v2.0-3-g5bdb3cb", "~" * 64)],
        ("forward_headers", ()),
        ("forward_headers", ["X-A"]),
        ("forward_environ", ["eppn", "OIDC_CLAIM_*"]),
        ("identify", lambda environ: environ["REMOTE_USER"]),
        *[(name, print) for name in ("on_start", "on_update", "on_end")],
        ("environ_key", "my.jobs"),
    ],
)
def test_right_value_is_kept(option: str, value: Any) -> None:
    assert getattr(make_config({option: value}), option) == value


def test_an_engine_is_a_database(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/jobs.sqlite3")
    assert make_config({"database": engine}).database is engine
    engine.dispose()


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("databse", "'database'"),
        ("closedelay", "'close_delay'"),
        ("error_timout", "'error_timeout'"),
        ("keys", "'key'"),
        ("tableName", "'table_name'"),
        ("zzz", "the options are database, cache, key"),
    ],
)
def test_unknown_option_is_refused_with_the_near_name(option: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{option} is no option.*{hint}") as caught:
        make_config({option: CANARY})
    assert CANARY not in str(caught.value)


def test_no_option_can_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_config({}).key = KEY  # type: ignore[misc]


def test_what_is_derived() -> None:
    config = make_config({"connect": "http://a.test:81", "forward_headers": ["X-Tenant-ID", "cookie"]})
    assert config.address == Address("a.test", 81)
    assert make_config({}).address is None
    assert config.forward_keys == ("HTTP_COOKIE", "HTTP_AUTHORIZATION", "HTTP_X_TENANT_ID")


def test_a_url_object_is_a_database_and_its_password_is_not_shown() -> None:
    url = sqlalchemy.make_url(f"postgresql://ada:{CANARY}@db/jobs")
    assert make_config({"database": url}).database is url
    for wrong in (url, url.set(drivername="oracle")):
        with pytest.raises(ConfigError) as caught:
            BackJob(app, database=wrong, key=KEY, table_name="a b" if wrong is url else "a")
        assert CANARY not in str(caught.value)
    assert CANARY not in repr(make_config({"database": url}))


class TestMiddleware:
    def test_wrong_option_is_refused_at_construction(self) -> None:
        with pytest.raises(ConfigError, match="lease"):
            BackJob(app, lease=0)

    def test_wrong_app_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="app"):
            BackJob("app")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "database", ["nonsense", f"{CANARY}://", "sqlite://", "sqlite:///:memory:", f"oddsql://u:{CANARY}@h/d"]
    )
    def test_wrong_url_is_refused(self, database: str) -> None:
        with pytest.raises(ConfigError, match=r"^database") as caught:
            BackJob(app, database=database)
        assert f"u:{CANARY}" not in str(caught.value)

    def test_a_key_is_asked_for_where_no_file_can_keep_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("BACKJOB_KEY", raising=False)
        engine = sqlalchemy.create_engine("postgresql+psycopg://db/jobs")
        with pytest.raises(ConfigError, match="key"):
            BackJob(app, database=engine)
        monkeypatch.setenv("BACKJOB_KEY", CANARY)
        with pytest.raises(ConfigError, match=r"BACKJOB_KEY") as caught:
            BackJob(app, database=engine)
        assert CANARY not in str(caught.value)
        monkeypatch.setenv("BACKJOB_KEY", KEY)
        BackJob(app, database=engine).close()
        engine.dispose()

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///file:jobs?mode=memory&cache=shared&uri=true"])
    @pytest.mark.parametrize("poolclass", [sqlalchemy.QueuePool, sqlalchemy.NullPool, sqlalchemy.StaticPool])
    def test_an_engine_in_memory_is_refused(self, url: str, poolclass: Any) -> None:
        engine = sqlalchemy.create_engine(url, poolclass=poolclass)
        with pytest.raises(ConfigError, match=r"database is an Engine in memory.*name a file"):
            BackJob(app, database=engine, key=KEY)
        engine.dispose()

    @pytest.mark.parametrize(
        "poolclass", [sqlalchemy.StaticPool, sqlalchemy.SingletonThreadPool, sqlalchemy.AssertionPool]
    )
    @pytest.mark.parametrize("url", ["sqlite:///jobs.sqlite3", "postgresql+psycopg://db/jobs"])
    def test_an_engine_whose_connections_are_shared_is_refused(self, url: str, poolclass: Any) -> None:
        engine = sqlalchemy.create_engine(url, poolclass=poolclass)
        with pytest.raises(ConfigError, match=rf"database is an Engine with a {poolclass.__name__}.*QueuePool or Null"):
            BackJob(app, database=engine, key=KEY)
        engine.dispose()

    def test_construction_touches_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        BackJob(app)
        assert list(tmp_path.iterdir()) == []


INI = """
[app:main]
use = egg:shop
backjob.database = sqlite:////var/lib/app/jobs.sqlite3
backjob.key = {new}
    {old}
backjob.table_name = jobs
backjob.create_table = no
backjob.error_timeout = 0.5
backjob.backlog_days = 7
backjob.connect = http://127.0.0.1:8000
backjob.connect_headers =
    Authorization: Basic eDp5
    X-Proxy:pass
backjob.monitor = leave
backjob.lease = 10
backjob.max_running = 3
backjob.max_running_per_process = 2
backjob.max_running_per_scope = reports=1, mail = 2
    a=b = 0
backjob.forward_headers = X-Tenant, X-Other
    Accept-Language
backjob.forward_environ = eppn, OIDC_CLAIM_*
backjob.redirect_ok = TRUE
backjob.max_output = 1000
backjob.max_request = 2000
other.key = 7
"""


def read_ini(text: str) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return parser["app:main"]


def test_text_settings_read_as_the_options_that_they_mean() -> None:
    new, old = "a-new-key-for-tests-and-nothing-else", "an-old-key-for-tests-and-nothing-else"
    assert read_settings(read_ini(INI.format(new=new, old=old))) == {
        "database": "sqlite:////var/lib/app/jobs.sqlite3",
        "key": (new, old),
        "table_name": "jobs",
        "create_table": False,
        "error_timeout": 0.5,
        "backlog_days": 7,
        "connect": "http://127.0.0.1:8000",
        "connect_headers": {"Authorization": "Basic eDp5", "X-Proxy": "pass"},
        "monitor": "leave",
        "lease": 10,
        "max_running": 3,
        "max_running_per_process": 2,
        "max_running_per_scope": {"reports": 1, "mail": 2, "a=b": 0},
        "forward_headers": ("X-Tenant", "X-Other", "Accept-Language"),
        "forward_environ": ("eppn", "OIDC_CLAIM_*"),
        "redirect_ok": True,
        "max_output": 1000,
        "max_request": 2000,
    }


def test_one_limit_for_each_scope_can_be_written_as_text() -> None:
    assert read_settings({"backjob.max_running_per_scope": "4"}) == {"max_running_per_scope": 4}


@pytest.mark.parametrize("text", ["none", "None", " NONE "])
def test_no_database_can_be_written_as_text(text: str) -> None:
    assert read_settings({"backjob.database": text}) == {"database": None}


def test_every_default_can_be_written_as_text() -> None:
    texts = {name: str(value) for name, value in DEFAULTS.items() if isinstance(value, (str, int, float))}
    assert make_config(read_settings(texts, prefix="")) == make_config({})
    assert read_settings({"forward_headers": " ".join(FORWARD_HEADERS)}, "") == {"forward_headers": FORWARD_HEADERS}


def test_values_that_are_no_text_are_kept() -> None:
    assert read_settings({"backjob.lease": 9.5, "backjob.connect": None}) == {"lease": 9.5, "connect": None}


def test_one_key_is_one_key() -> None:
    assert read_settings({"backjob.key": f" {KEY}\n"}) == {"key": KEY}


def name_user(environ: Mapping[str, Any]) -> str:
    return "somebody"


def make_hook() -> Any:
    return name_user


@pytest.mark.parametrize("name", [f"{__name__}.name_user", f" {__name__}:name_user\n", f"{__name__}.make_hook()"])
@pytest.mark.parametrize("option", DOTTED)
def test_a_dotted_name_stands_for_an_object(option: str, name: str) -> None:
    assert read_settings({option: name}, "") == {option: name_user}


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("create_table", "maybe"),
        ("redirect_ok", ""),
        ("lease", "long"),
        ("lease", ""),
        ("lease", "nan"),
        ("lease", "inf"),
        ("lease", "1e400"),
        ("max_output", "1.5"),
        ("max_running", "many"),
        ("max_running_per_process", "auto"),
        ("max_running_per_process", "1.5"),
        ("max_running_per_scope", ""),
        ("max_running_per_scope", "many"),
        ("max_running_per_scope", "reports=1, 2"),
        ("max_running_per_scope", "reports="),
        ("max_running_per_scope", "=1"),
        ("max_running_per_scope", "reports=-1"),
        ("error_timeout", "-1"),
        ("key", ""),
        ("key", CANARY),
        ("connect_headers", f"Authorization {CANARY}"),
        ("forward_headers", "A:B"),
        ("identify", "app.identify"),
        ("launcher", "app.launch"),
        ("cache", "dogpile.cache.memory"),
        ("leese", "1"),
    ],
)
def test_wrong_text_is_refused(option: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"\b{option}\b") as caught:
        BackJob.from_settings(app, {f"backjob.{option}": text})
    assert CANARY not in str(caught.value)


def test_the_entry_point_reads_the_same_options() -> None:
    wrapped = make_filter(app, {"here": "/etc"}, lease="12", key=KEY, redirect_ok="on")
    assert (wrapped.config.lease, wrapped.config.key, wrapped.config.redirect_ok) == (12, KEY, True)
