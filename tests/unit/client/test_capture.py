"""From the request that starts a job to the one that it is: targets, fields, identity, and the environ put back."""

from __future__ import annotations

import datetime
import wsgiref.util
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import bottle
import pytest
import webob
import webob.multidict
import werkzeug.datastructures
from hypothesis import given
from hypothesis import strategies as st

from backjob.client.capture import FORM, encode_form, make_request, name_user
from backjob.config import make_config
from backjob.model.job import JobRequest
from backjob.wsgi.environ import restore_environ
from backjob.wsgi.mounts import find_mount, mount_target

CONFIG = make_config({})
CANARY = "canary-4711"


def environ_of(**changes: Any) -> dict[str, Any]:
    """The environ of somebody's request."""
    environ: dict[str, Any] = {"HTTP_HOST": "people.test", "REMOTE_ADDR": "192.0.2.7", **changes}
    wsgiref.util.setup_testing_defaults(environ)
    return environ


def wsgi(text: str) -> str:
    """The text as a WSGI string (PEP 3333)."""
    return text.encode().decode("latin-1")


def make(
    target: Any = "/a", params: Any = None, *, environ: dict[str, Any] | None = None, **options: Any
) -> JobRequest:
    return make_request(environ_of(SCRIPT_NAME="") if environ is None else environ, CONFIG, target, params, **options)


class TestMount:
    @pytest.mark.parametrize(
        ("came_with", "script_name", "path_info", "mount"),
        [
            pytest.param("/start", "", "/start", "", id="nothing was changed"),
            pytest.param("/start", "/app", "/start", "/app", id="a mount around"),
            pytest.param("/sub/start", "/sub", "/start", "", id="a mount within"),
            pytest.param("/sub/start", "/app/sub", "/start", "/app", id="a mount around and one within"),
            pytest.param("/sub", "/sub", "/", "", id="the root of a mount within"),
            pytest.param("/sub/", "/sub", "", "", id="the same, and its slash was taken away"),
            pytest.param("/start", "/tool", "/start", "/tool", id="a proxy's prefix"),
            pytest.param("/", "/tool", "/", "/tool", id="the root behind a proxy's prefix"),
            pytest.param("", "/tool", "", "/tool", id="no path at all behind a proxy's prefix"),
            pytest.param("/sub/start", "/tool/sub", "/start", "/tool", id="a proxy's prefix and a mount within"),
            pytest.param("/de/start", "", "/start", "", id="a part of the path was taken away"),
            pytest.param("/de/start", "/app", "/start", "/app", id="the same in a mount"),
        ],
    )
    def test_what_an_app_within_changes_is_seen_through(
        self, came_with: str, script_name: str, path_info: str, mount: str
    ) -> None:
        assert find_mount({"SCRIPT_NAME": script_name, "PATH_INFO": path_info}, came_with) == mount

    def test_an_environ_need_not_have_them(self) -> None:
        """PEP 3333: what is empty may be missing."""
        assert find_mount({}, "") == ""

    def test_it_decides_what_is_of_this_app(self) -> None:
        within = environ_of(SCRIPT_NAME="/app/sub", PATH_INFO="/start")
        request = make_request(within, CONFIG, "/app/other", mount="/app")
        assert (request.script_name, request.path_info) == ("/app", "/other")
        with pytest.raises(ValueError, match="mounted at '/app'"):
            make_request(within, CONFIG, "/elsewhere", mount="/app")


class TestTarget:
    @pytest.mark.parametrize(
        "target",
        [
            *("/a/../b", "/a/./b", "/..", "/a/%2e%2e/b", "/a/.%2E/b", "/a%2f..%2fb", "/a/..%5cb", "/a/..\\b"),
            *("/a/%2e?q=1", "/a/..;/b", "/a/%2e%2e;x=1/b", "/a/..%3b/b"),
        ],
    )
    def test_a_dot_segment_is_refused(self, target: str) -> None:
        with pytest.raises(ValueError, match="has a segment"):
            make(target)
        with pytest.raises(ValueError, match="has a segment"):
            make(webob.Request.blank(target))

    @pytest.mark.parametrize("target", ["/a/...", "/a/.b/c..", "/a?b=/../", "/a%252e%252e/b"])
    def test_other_dots_are_not(self, target: str) -> None:
        assert make(target).target == target

    def test_a_method_is_in_upper_case(self) -> None:
        assert make(method="post").method == "POST"
        assert make(webob.Request.blank("/a", method="Patch")).method == "PATCH"
        assert make(method="CHICKEN").method == "CHICKEN"
        with pytest.raises(ValueError, match="write 'CHICKEN'"):
            make(method="Chicken")

    @pytest.mark.parametrize(
        ("mount", "target", "script_name", "path_info"),
        [
            ("", "/", "", "/"),
            ("", "/a", "", "/a"),
            ("/", "/a", "", "/a"),
            ("/mount", "/mount/a", "/mount", "/a"),
            ("/mount", "/mount/", "/mount", "/"),
            ("/mount", "/mount", "/mount", ""),
            ("/mount/", "/mount/a", "/mount", "/a"),
            ("/a/b", "/a/b/c%20d", "/a/b", "/c d"),
            ("", "/gr%C3%B6%C3%9Fe/%F0%9F%98%80", "", wsgi("/größe/\U0001f600")),
            ("", "/%ff%00%2F", "", "/\xff\0/"),
            (wsgi("/größe"), "/gr%C3%B6%C3%9Fe/a", wsgi("/größe"), "/a"),
            ("/a b", "/a%20b/c", "/a b", "/c"),
            ("/mount", "/m%6Funt/a", "/mount", "/a"),
        ],
    )
    def test_is_split_at_the_mount(self, mount: str, target: str, script_name: str, path_info: str) -> None:
        request = make(f"{target}?q=%20", environ=environ_of(SCRIPT_NAME=mount))
        assert (request.script_name, request.path_info) == (script_name, path_info)
        assert request.target == f"{target}?q=%20"
        assert request.query_string == "q=%20"

    @pytest.mark.parametrize("target", ["/", "/other/a", "/mountain", "/mount2/a", "/MOUNT/a", "/a/mount/b"])
    def test_outside_of_the_mount_is_refused_by_name(self, target: str) -> None:
        with pytest.raises(ValueError, match="mounted at '/mount'") as caught:
            make(f"{target}?q={CANARY}", environ=environ_of(SCRIPT_NAME="/mount"))
        assert repr(target) in str(caught.value)
        assert CANARY not in str(caught.value)

    @pytest.mark.parametrize(
        "target", ["a", "//host/a", "http://host/a", "/a b", "/a#b", "/ä", "/a\r\n", "", None, 7, b"/a"]
    )
    def test_what_is_no_path_is_refused(self, target: Any) -> None:
        with pytest.raises((ValueError, TypeError), match="target"):
            make(target)

    @pytest.mark.parametrize("method", ["", "GE T", "CONNECT", "G\r\n", "É", None])
    def test_what_is_no_method_is_refused(self, method: Any) -> None:
        with pytest.raises(ValueError, match=r"method|CONNECT"):
            make(method=method)

    def test_the_mount_is_not_known_outside_of_a_request(self) -> None:
        request = make_request(None, make_config({"connect": "https://a.test:444"}), "/mount/a%20b?q=1")
        assert (request.script_name, request.path_info, request.query_string) == (None, "/mount/a b", "q=1")
        assert (request.headers, request.scheme) == ({"HTTP_HOST": "a.test:444"}, "https")
        assert (request.remote_addr, request.remote_user) == (None, None)

    @pytest.mark.parametrize(
        ("mount", "target"), [("", "/"), ("/mount", "/mount/"), (wsgi("/größe x"), "/gr%C3%B6%C3%9Fe%20x/")]
    )
    def test_the_monitors_request_goes_to_the_mount(self, mount: str, target: str) -> None:
        path = target + "a"
        assert mount_target(make(path, environ=environ_of(SCRIPT_NAME=mount))) == target


class QueryDict(dict[str, list[str]]):
    """As Django has it: a dict whose items() give the last values only."""

    def lists(self) -> Iterable[tuple[str, list[str]]]:
        return super().items()

    def items(self) -> Any:
        return [(name, values[-1]) for name, values in super().items()]


def bottle_form(kind: type[Any]) -> Any:
    """A MultiDict of Bottle's with these pairs; its constructor would keep the last of a name only."""
    form = kind()
    for name, value in PAIRS:
        form.append(name, value)
    return form


def bottle_request() -> bottle.Request:
    """A request as Bottle has it, whose fields are WSGI strings until somebody asks for one by its name."""
    return bottle.Request(dict(webob.Request.blank("/?a=1&b=%C3%A4%20%26%3D%3F&a=2", POST=PAIRS).environ))


PAIRS = [("a", "1"), ("b", "ä &=?"), ("a", "2")]
GROUPED = [("a", "1"), ("a", "2"), ("b", "ä &=?")]
FIELDS: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "pairs": (PAIRS, PAIRS),
    "a tuple of lists": (tuple(map(list, PAIRS)), PAIRS),
    "a generator": (lambda: (pair for pair in PAIRS), PAIRS),
    "mapping with lists": ({"a": ["1", "2"], "b": "ä &=?"}, GROUPED),
    "mapping with a tuple": ({"a": ("1", "2")}, [("a", "1"), ("a", "2")]),
    "mapping with an empty list": ({"a": [], "b": "x"}, [("b", "x")]),
    "pairs with lists": ([("a", ["1", "2"]), ("b", "ä &=?")], GROUPED),
    "numbers": ({"a": 1, "b": 1.5, "c": True}, [("a", "1"), ("b", "1.5"), ("c", "True")]),
    "bytes": ({"a": b"1", b"b": "ä &=?".encode()}, [("a", "1"), ("b", "ä &=?")]),
    "nothing": ({}, []),
    "webob": (webob.multidict.MultiDict(PAIRS), PAIRS),
    "webob GET": (lambda: webob.Request.blank("/?a=1&b=%C3%A4%20%26%3D%3F&a=2").GET, PAIRS),
    "webob POST": (lambda: webob.Request.blank("/", POST=PAIRS).POST, PAIRS),
    "webob params": (lambda: webob.Request.blank("/?a=1", POST=PAIRS[1:]).params, PAIRS),
    "webob without a form": (lambda: webob.Request.blank("/").POST, []),
    "werkzeug": (werkzeug.datastructures.MultiDict(PAIRS), GROUPED),
    "werkzeug immutable": (werkzeug.datastructures.ImmutableMultiDict(PAIRS), GROUPED),
    "werkzeug combined": (
        werkzeug.datastructures.CombinedMultiDict(
            [werkzeug.datastructures.MultiDict(PAIRS[:1]), werkzeug.datastructures.MultiDict(PAIRS[1:])]
        ),
        GROUPED,
    ),
    "bottle": (lambda: bottle_form(bottle.MultiDict), GROUPED),
    "bottle form": (lambda: bottle_form(bottle.FormsDict), GROUPED),
    "bottle query of a request": (lambda: bottle_request().query, GROUPED),
    "bottle form of a request": (lambda: bottle_request().forms, GROUPED),
    "django": (QueryDict({"a": ["1", "2"], "b": ["ä &=?"]}), GROUPED),
}


class TestFields:
    @pytest.mark.parametrize(("fields", "pairs"), FIELDS.values(), ids=FIELDS)
    def test_every_shape_gives_all_its_values(self, fields: Any, pairs: list[tuple[str, str]]) -> None:
        def fresh() -> Any:
            return fields() if callable(fields) else fields

        def grouped(text: str) -> list[tuple[str, str]]:
            return sorted(parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)))

        request = make("/a", fresh(), data=fresh(), method="POST")
        assert grouped(request.query_string) == sorted(pairs)
        assert grouped(request.body.decode("ascii")) == sorted(pairs)
        assert request.content_type == FORM
        for name in {name for name, _ in pairs}:  # values of one name keep their order
            assert [v for n, v in parse_qsl(request.query_string) if n == name] == [v for n, v in pairs if n == name]

    @given(st.lists(st.tuples(st.text(max_size=10), st.text(max_size=20)), max_size=6))
    def test_another_parser_reads_the_same(self, pairs: list[tuple[str, str]]) -> None:
        request = make("/a", pairs, data=pairs, method="PUT")
        assert parse_qsl(urlsplit(request.target).query, keep_blank_values=True) == pairs
        assert parse_qsl(request.body.decode("ascii"), keep_blank_values=True) == pairs

    @pytest.mark.parametrize(
        ("target", "params", "expected"),
        [
            ("/a", {"b": 1}, "/a?b=1"),
            ("/a?c=2", {"b": 1}, "/a?c=2&b=1"),
            ("/a", None, "/a"),
            ("/a", {}, "/a"),
            ("/a?c", [], "/a?c"),
            ("/a", [("b", "x y/ä#")], "/a?b=x+y%2F%C3%A4%23"),
        ],
    )
    def test_params_are_added_to_the_query(self, target: str, params: Any, expected: str) -> None:
        assert make(target, params).target == expected

    @pytest.mark.parametrize("name", ["params", "data"])
    @pytest.mark.parametrize(
        "fields",
        [
            CANARY,
            CANARY.encode(),
            7,
            object(),
            [CANARY],
            [(CANARY,)],
            [("a", CANARY, "b")],
            [7],
            {"a": None, "b": CANARY},
            {"a": {"b": CANARY}},
            {"a": [CANARY, None]},
            {"a": [[CANARY]]},
            {"a": {CANARY}},
            {"a": datetime.date(2024, 1, 2)},
            {None: CANARY},
            {("a", "b"): CANARY},
        ],
    )
    def test_wrong_ones_are_refused_by_name_without_their_values(self, name: str, fields: Any) -> None:
        with pytest.raises(TypeError, match=f"^{name} must be") as caught:
            make("/a", **{name: fields})
        assert CANARY not in str(caught.value)

    def test_what_is_no_text_is_refused(self) -> None:
        with pytest.raises(ValueError, match="params") as caught:
            make("/a", {"a": f"{CANARY}\ud800"})
        assert CANARY not in str(caught.value)

    def test_the_name_of_the_wrong_field_is_told(self) -> None:
        with pytest.raises(TypeError, match="'colour' has a NoneType"):
            encode_form({"size": 1, "colour": None}, "data")


class TestWebobRequest:
    """A ``webob.Request`` may stand in for the target."""

    def test_method_body_and_query_are_taken(self) -> None:
        given_request = webob.Request.blank("/mount/a%20b/%C3%A4?q=%20x", method="CHICKEN", POST={"a": "ä"})
        given_request.method = "CHICKEN"
        request = make(given_request, {"r": 1}, environ=environ_of(SCRIPT_NAME="/mount"))
        assert (request.method, request.target) == ("CHICKEN", "/mount/a%20b/%C3%A4?q=%20x&r=1")
        assert (request.script_name, request.path_info) == ("/mount", wsgi("/a b/ä"))
        assert (request.body, request.content_type) == (b"a=%C3%A4", FORM)

    @pytest.mark.parametrize("path", ["/", "/a;b=c/@:!$&'()*+,=~", "/%3F%23%25", "/a%FF", "/" + "%C3%A4" * 5])
    def test_its_path_stays_what_it_was(self, path: str) -> None:
        plain, wrapped = make(path), make(webob.Request.blank(path))
        assert wrapped.path_info == plain.path_info
        assert wrapped.target == plain.target

    def test_its_own_mount_counts(self) -> None:
        given_request = webob.Request.blank("/a", environ={"SCRIPT_NAME": "/mount"})
        assert make(given_request, environ=environ_of(SCRIPT_NAME="/mount")).target == "/mount/a"
        with pytest.raises(ValueError, match="mounted at"):
            make(webob.Request.blank("/a"), environ=environ_of(SCRIPT_NAME="/mount"))

    def test_any_body_but_multipart_is_taken(self) -> None:
        given_request = webob.Request.blank("/a", method="POST", body=b'{"a": 1}', content_type="application/json")
        request = make(given_request)
        assert (request.body, request.content_type) == (b'{"a": 1}', "application/json")
        upload = webob.Request.blank("/a", POST={"f": ("name.txt", CANARY.encode())})
        with pytest.raises(ValueError, match="multipart") as caught:
            make(upload)
        assert CANARY not in str(caught.value)

    def test_its_own_headers_win(self) -> None:
        environ = environ_of(HTTP_COOKIE="user", HTTP_AUTHORIZATION="user", HTTP_ACCEPT_LANGUAGE="de")
        headers = {"Cookie": "own", "X-CSRF-Token": "own", "X-Unknown": "own", "Host": "evil.test"}
        request = make(webob.Request.blank("/a", headers=headers), environ=environ)
        assert request.headers == {
            "HTTP_HOST": "people.test",
            "HTTP_COOKIE": "own",
            "HTTP_AUTHORIZATION": "user",
            "HTTP_ACCEPT_LANGUAGE": "de",
            "HTTP_X_CSRF_TOKEN": "own",
            "HTTP_X_UNKNOWN": "own",
        }

    def test_it_takes_no_method_or_data_beside_it(self) -> None:
        for options in ({"method": "POST"}, {"data": {"a": 1}}):
            with pytest.raises(ValueError, match="webob"):
                make(webob.Request.blank("/a"), **options)

    def test_a_strange_content_type_is_left_away(self) -> None:
        given_request = webob.Request.blank("/a", method="POST", body=b"x", environ={"CONTENT_TYPE": "a\r\nX: y"})
        assert make(given_request).content_type == ""


USER = {
    "HTTP_COOKIE": f"session={CANARY}",
    "HTTP_AUTHORIZATION": f"Basic {CANARY}",
    "HTTP_X_CSRFTOKEN": CANARY,
    "HTTP_ACCEPT_LANGUAGE": "de",
    "HTTP_TRACEPARENT": "00-1",
    "HTTP_X_REQUEST_ID": "17",
    "HTTP_X_FORWARDED_FOR": "192.0.2.9",
}
NOT_FORWARDED = {"HTTP_REFERER": "r", "HTTP_X_OTHER": "a", "HTTP_RANGE": "bytes=0-1", "HTTP_IF_NONE_MATCH": "e"}


class TestIdentity:
    def test_a_job_is_its_users(self) -> None:
        environ = environ_of(REMOTE_USER="ann", **USER, **NOT_FORWARDED, **{"wsgi.url_scheme": "https"})
        request = make(environ=environ)
        assert request.headers == {**USER, "HTTP_HOST": "people.test"}
        assert (request.remote_user, request.remote_addr, request.scheme) == ("ann", "192.0.2.7", "https")

    def test_an_anonymous_job_is_nobodys(self) -> None:
        environ = environ_of(REMOTE_USER="ann", **USER, **NOT_FORWARDED)
        for target in ("/a", webob.Request.blank("/a", headers={"Cookie": "own"})):
            request = make(target, environ=environ, as_user=False)
            assert request.headers == {"HTTP_HOST": "people.test"}
            assert (request.remote_user, request.remote_addr) == (None, None)

    def test_headers_to_forward_are_an_option(self) -> None:
        config = make_config({"forward_headers": ("X-Tenant",)})
        request = make_request(environ_of(HTTP_X_TENANT="t", **USER), config, "/a")
        assert request.headers.keys() == {"HTTP_HOST", "HTTP_COOKIE", "HTTP_AUTHORIZATION", "HTTP_X_TENANT"}

    def test_an_empty_user_is_none(self) -> None:
        assert make(environ=environ_of(REMOTE_USER="")).remote_user is None

    @pytest.mark.parametrize("given", [None, True, False, "/ticket/"])
    def test_redirect_ok_is_a_choice(self, given: bool | str | None) -> None:
        assert make(redirect_ok=given).redirect_ok == given

    def test_two_users_are_told_apart(self) -> None:
        environs = [
            environ_of(REMOTE_USER="ann"),
            environ_of(REMOTE_USER="bob"),
            environ_of(HTTP_COOKIE="a"),
            environ_of(HTTP_AUTHORIZATION="a"),
            environ_of(HTTP_COOKIE="b"),
        ]
        names = [name_user(make(environ=environ)) for environ in environs]
        assert len(set(names)) == len(names)

    def test_nobody_is_told_apart_from_nobody(self) -> None:
        environs = [environ_of(REMOTE_USER="ann"), environ_of(HTTP_COOKIE="b"), environ_of()]
        names = {name_user(make(environ=environ, as_user=False)) for environ in environs}
        outside = make_config({"connect": "http://a.test", "identify": lambda environ: environ["app.user"]})
        assert names == {name_user(make_request(None, outside, "/a"))}

    def test_the_app_may_say_who_it_is(self) -> None:
        config = make_config({"identify": lambda environ: environ.get("app.user")})
        environ = environ_of(HTTP_COOKIE="a", **{"app.user": 7})
        other = {**environ, "HTTP_COOKIE": "b"}
        assert make_request(environ, config, "/a").user == make_request(other, config, "/a").user == "7"
        assert name_user(make_request(environ, config, "/a")) == name_user(make_request(other, config, "/a"))
        of_nobody = make_request({**environ, "app.user": None}, config, "/a")
        assert of_nobody.user == ""
        assert name_user(of_nobody) == name_user(make(environ=environ))

    @pytest.mark.parametrize("header", ["Cookie", "Authorization"])
    def test_a_request_with_a_user_of_its_own_is_not_the_starters(self, header: str) -> None:
        config = make_config({"identify": lambda environ: "7"})
        target = webob.Request.blank("/a", headers={header: "own"})
        assert make_request(environ_of(), config, target).user is None
        assert make_request(environ_of(), config, webob.Request.blank("/a")).user == "7"


def restore(server: dict[str, Any], request: JobRequest, user_agent: str = CONFIG.user_agent) -> dict[str, Any]:
    return restore_environ(server, request, forward_environ=(), user_agent=user_agent)


HOSTILE = {
    **dict.fromkeys(["HTTP_COOKIE", "HTTP_AUTHORIZATION", "HTTP_X_EVIL", "HTTP_PROXY", "HTTP_BACKJOB_TOKEN"], "wire"),
    **dict.fromkeys(["HTTP_HOST", "HTTP_ORIGIN", "HTTP_REFERER", "HTTP_USER_AGENT", "HTTP_TRANSFER_ENCODING"], "wire"),
    **dict.fromkeys(["REMOTE_USER", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_IDENT", "AUTH_TYPE", "HTTPS"], "wire"),
    **dict.fromkeys(["REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "RAW_URI"], "wire"),
    **dict.fromkeys(["CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_CONTENT_LENGTH", "wsgi.file_wrapper"], "wire"),
}


class TestRestore:
    def restore(self, request: JobRequest, **changes: Any) -> dict[str, Any]:
        return restore({**environ_of(**HOSTILE), **changes}, request, "me/1")

    def test_the_app_sees_the_record_and_nothing_of_the_wire(self) -> None:
        environ = environ_of(SCRIPT_NAME="/mount", REMOTE_USER="ann", **USER, **{"wsgi.url_scheme": "https"})
        request = make("/mount/a?q=1", environ=environ, data={"b": "2"}, method="POST")
        restored = self.restore(request)
        assert {key: value for key, value in restored.items() if key.startswith("HTTP")} == {
            **USER,
            "HTTP_CACHE_CONTROL": "no-cache",
            "HTTP_HOST": "people.test",
            "HTTP_ORIGIN": "https://people.test",
            "HTTP_REFERER": "https://people.test/",
            "HTTP_USER_AGENT": "me/1",
            "HTTPS": "on",
        }
        expected = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "/mount",
            "PATH_INFO": "/a",
            "QUERY_STRING": "q=1",
            "CONTENT_TYPE": FORM,
            "CONTENT_LENGTH": "3",
            "REMOTE_ADDR": "192.0.2.7",
            "REMOTE_USER": "ann",
            "REQUEST_URI": "/mount/a?q=1",
            "RAW_URI": "/mount/a?q=1",
            "wsgi.url_scheme": "https",
        }
        assert {key: restored.get(key) for key in expected} == expected
        assert restored["wsgi.input"].read() == b"b=2"
        assert "wire" not in str([restored.get(key) for key in HOSTILE])
        assert not {"wsgi.file_wrapper", "AUTH_TYPE", "REMOTE_IDENT", "REMOTE_HOST"} & restored.keys()

    @pytest.mark.parametrize(
        ("forwarded", "origin"),
        [
            ({}, "http://people.test"),
            ({"HTTP_X_FORWARDED_PROTO": "https"}, "https://people.test"),
            ({"HTTP_X_FORWARDED_PROTO": "https, http"}, "https://people.test"),
            ({"HTTP_X_FORWARDED_HOST": "outside.test, inside.test"}, "http://outside.test"),
            ({"HTTP_X_FORWARDED_PROTO": ""}, "http://people.test"),
            ({"HTTP_X_FORWARDED_PROTO": "javascript"}, "http://people.test"),
        ],
    )
    @pytest.mark.parametrize("as_user", [True, False])
    def test_the_origin_is_that_of_a_browser_before_a_proxy(
        self, forwarded: dict[str, str], origin: str, as_user: bool
    ) -> None:
        """Also where the server does not believe the proxy, and only the app does."""
        request = make(environ=environ_of(**forwarded), method="POST", as_user=as_user)
        restored = self.restore(request)
        assert restored["HTTP_ORIGIN"] == origin
        assert restored["wsgi.url_scheme"] == "http"

    def test_an_anonymous_job_knows_where_the_site_is(self) -> None:
        site = {f"HTTP_X_FORWARDED_{name}": name.lower() for name in ("HOST", "PORT", "PREFIX", "PROTO")}
        who = {"HTTP_X_FORWARDED_FOR": CANARY, "HTTP_FORWARDED": CANARY, "HTTP_X_REAL_IP": CANARY}
        request = make(environ=environ_of(**site, **who), as_user=False)
        assert request.headers == {"HTTP_HOST": "people.test", **site}
        nothing = make_config({"forward_headers": ()})
        assert make_request(environ_of(**site), nothing, "/a", as_user=False).headers == {"HTTP_HOST": "people.test"}

    def test_an_anonymous_job_has_no_identity_of_the_wires_either(self) -> None:
        restored = self.restore(make(environ=environ_of(REMOTE_USER="ann", **USER), as_user=False))
        names = {key for key in restored if key.startswith("HTTP_")}
        assert names == {"HTTP_HOST", "HTTP_USER_AGENT", "HTTP_CACHE_CONTROL"}
        assert "REMOTE_USER" not in restored
        assert CANARY not in str(restored)

    @given(
        st.dictionaries(st.from_regex(r"HTTP_[A-Z_]{1,12}", fullmatch=True), st.text(max_size=5), max_size=8),
        st.dictionaries(st.from_regex(r"HTTP_[A-Z_]{1,12}", fullmatch=True), st.text(max_size=5), max_size=8),
    )
    def test_no_wire_header_survives_but_those_of_the_record(
        self, wire: dict[str, str], record: dict[str, str]
    ) -> None:
        restored = restore({**environ_of(), **wire}, JobRequest("GET", "/", "", "/", headers=record))
        seen = {key: value for key, value in restored.items() if key.startswith("HTTP_")}
        assert seen == {**record, "HTTP_USER_AGENT": CONFIG.user_agent, "HTTP_CACHE_CONTROL": "no-cache"}

    @pytest.mark.parametrize(
        ("given", "restored"), [({}, "no-cache"), ({"Cache-Control": "max-age=0"}, "max-age=0, no-cache")]
    )
    def test_no_cache_answers_a_job(self, given: dict[str, str], restored: str) -> None:
        conditional = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range")
        config = make_config({"forward_headers": conditional})
        start = environ_of(**{"HTTP_" + name.upper().replace("-", "_"): "wire" for name in conditional})
        environ = self.restore(make_request(start, config, webob.Request.blank("/a", headers=given)))
        assert environ["HTTP_CACHE_CONTROL"] == restored
        assert not [key for key in environ if key.startswith(("HTTP_IF_", "HTTP_RANGE"))]

    @pytest.mark.parametrize("key", ["REQUEST_URI", "RAW_URI"])
    def test_a_raw_target_is_there_only_where_the_server_has_one(self, key: str) -> None:
        server = environ_of()
        assert key not in restore(server, make("/a?b"))
        assert restore({**server, key: "/x"}, make("/a?b"))[key] == "/a?b"

    @pytest.mark.parametrize(
        ("method", "data", "length", "origin"),
        [
            *[(method, None, None, None) for method in ("GET", "HEAD", "OPTIONS", "TRACE")],
            *[(method, None, "0", "http://people.test") for method in ("POST", "PUT", "DELETE", "CHICKEN")],
            ("POST", {"a": 1}, "3", "http://people.test"),
            ("GET", {"a": 1}, "3", None),
        ],
    )
    def test_length_and_origin(self, method: str, data: Any, length: str | None, origin: str | None) -> None:
        restored = self.restore(make(method=method, data=data))
        assert restored.get("CONTENT_LENGTH") == length
        assert restored.get("HTTP_ORIGIN") == origin
        assert restored.get("HTTP_REFERER") == (origin and origin + "/")
        assert restored.get("CONTENT_TYPE") == (FORM if data else None)

    def test_no_host_is_made_up(self) -> None:
        environ = environ_of()
        del environ["HTTP_HOST"]
        restored = self.restore(make(environ=environ, method="POST"))
        assert not {"HTTP_HOST", "HTTP_ORIGIN", "HTTP_REFERER"} & restored.keys()

    def test_http_is_no_https(self) -> None:
        restored = self.restore(make(), **{"wsgi.url_scheme": "https"})
        assert restored["wsgi.url_scheme"] == "http"
        assert "HTTPS" not in restored

    def test_the_mount_is_where_a_job_from_outside_of_a_request_arrived(self) -> None:
        request = make_request(None, make_config({"connect": "http://a.test"}), "/mount/a%20b?q")
        restored = self.restore(request, SCRIPT_NAME="/mount", PATH_INFO="/a b")
        assert (restored["SCRIPT_NAME"], restored["PATH_INFO"], restored["QUERY_STRING"]) == ("/mount", "/a b", "q")
        assert restored["HTTP_HOST"] == "a.test"

    def test_the_servers_own_environ_stays_as_it_is(self) -> None:
        server = environ_of(**HOSTILE)
        before = dict(server)
        restored = restore(server, make())
        assert server == before
        assert restored["SERVER_NAME"] == server["SERVER_NAME"]
        assert restored["wsgi.errors"] is server["wsgi.errors"]
