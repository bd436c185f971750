"""The names of processes: what stands in one, and of which bearer it is certain that it is dead."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import wait_until
from support.processes import Bearer

from backjob.keyring import WORKER, Keyring
from backjob.runtime.process_identity import RESPONSE, is_dead, name_process, name_response
from backjob.storage.sql.schema import build_table

KEYRING = Keyring(["k" * 32])


@pytest.fixture
def bearer() -> Iterator[Bearer]:
    bearer = Bearer()
    yield bearer
    bearer.process.kill()
    bearer.reap()


def change(name: str, **changes: str) -> str:
    """The name of another process, which differs in these parts."""
    kind, *values = name.split("-", 4)
    parts = dict(zip(("host", "pid", "start", "nonce"), values, strict=True)) | changes
    return "-".join((kind, *parts.values()))


def test_alive_is_not_dead(bearer: Bearer) -> None:
    assert not is_dead(bearer.name)
    assert not is_dead(name_response(bearer.name))
    assert not is_dead(name_process())


def test_one_that_was_killed_is_dead_also_before_anybody_reaps_it(bearer: Bearer) -> None:
    bearer.kill()
    assert is_dead(bearer.name)
    assert is_dead(name_response(bearer.name))
    bearer.reap()
    assert is_dead(bearer.name)
    assert is_dead(name_response(bearer.name))


def test_one_that_ended_by_itself_is_dead(bearer: Bearer) -> None:
    bearer.reap()
    assert bearer.process.returncode == 0
    assert is_dead(bearer.name)


def test_one_that_is_stopped_is_not_dead(bearer: Bearer) -> None:
    bearer.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: os.waitid(os.P_PID, bearer.process.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG))
    assert not is_dead(bearer.name)


def test_what_belongs_to_a_process_is_dead_with_it(bearer: Bearer) -> None:
    """A claim is the process, and the nonce of the token that brought it."""
    token = KEYRING.sign(WORKER, 1, 1, b"sealed")
    claim = f"{bearer.name}-{token.nonce}"
    assert not is_dead(claim)
    bearer.kill()
    assert is_dead(claim)


def test_a_pid_that_came_again_is_another_process(bearer: Bearer) -> None:
    """The bearer of the name began at another time than the process that has its pid now."""
    start = bearer.name.split("-")[3]
    assert is_dead(change(bearer.name, start=str(int(start) + 1)))
    assert is_dead(change(bearer.name, start=str(int(start) - 1)))
    assert not is_dead(change(bearer.name, nonce="another"))


def test_one_that_could_not_tell_when_it_began_is_dead_when_its_pid_is_free(bearer: Bearer) -> None:
    name = change(bearer.name, start="x")
    assert not is_dead(name)
    bearer.kill()
    assert not is_dead(name)
    bearer.reap()
    assert is_dead(name)


def test_of_a_process_on_another_host_nothing_is_certain(bearer: Bearer) -> None:
    host = bearer.name.split("-")[1]
    other = change(bearer.name, host=f"{int(host, 16) ^ 1:08x}")
    assert not is_dead(other)
    bearer.reap()
    assert is_dead(bearer.name)
    assert not is_dead(other)
    assert not is_dead(name_response(other))


def test_a_pid_means_another_process_in_another_container() -> None:
    """There a process has the name of another host, though it is the same kernel."""
    namespace = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")
    if subprocess.run([*namespace, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this kernel lets nobody make namespaces")
    bearer = Bearer(*namespace)
    try:
        ours, theirs = name_process().split("-"), bearer.name.split("-")
        assert ours[1] != theirs[1]
        assert int(theirs[2]) < 10, "its pid within the namespace"
        assert not is_dead(bearer.name)
    finally:
        bearer.process.kill()
        bearer.reap()
    assert not is_dead(bearer.name)


def test_another_users_process_is_not_dead(bearer: Bearer) -> None:
    """Nobody may signal it, and that is no sign of death."""
    if os.getuid():
        pytest.skip("only root can become somebody else")
    child = os.fork()
    if not child:
        os.setuid(65534)
        os._exit(int(is_dead(bearer.name)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "process-",
        "process",
        "second run",
        "KjGqO5fT1xQ7",
        "process-0123",
        "process-{host}-1",
        "process-{host}--1-1-n",
        "process-{host}-1x-1-n",
        "process-{host}-999999999-1",
        "other-{host}-999999999-1-n",
        "process-{host}-999999999-1-n\n",
        " process-{host}-999999999-1-n",
        "process-{host}-0-1-n",
    ],
)
def test_no_name_is_nobodys_death(name: str | None) -> None:
    host = name_process().split("-")[1]
    assert not is_dead(name.format(host=host) if name else name)


def test_a_pid_that_no_system_has_is_nobody() -> None:
    """Nobody alive can have this name; whether it counts as dead or not, it is no error."""
    name = change(name_process(), pid="9" * 30)
    assert isinstance(is_dead(name), bool)


@given(st.text(max_size=64) | st.from_regex(r"(process|response)-[0-9a-f-]*", fullmatch=True))
def test_whatever_stands_in_a_record_is_no_error(name: str) -> None:
    assert is_dead(name) in (True, False)


def test_names_are_never_twice_the_same() -> None:
    names = {name_process() for _ in range(100)}
    assert len(names) == 100
    responses = {name_response(min(names)) for _ in range(100)}
    assert len(responses) == 100
    assert all(name.startswith(RESPONSE) for name in responses)


def test_a_child_of_a_fork_has_a_name_of_its_own() -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, name_process().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        name = pipe.read()
    assert name.split("-")[2] == str(child)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert is_dead(name)
    os.waitpid(child, 0)
    assert is_dead(name)


def test_fits_into_its_columns_whatever_the_pid_and_the_time() -> None:
    """With the largest pid of a kernel and ten years of ticks, as a claim and as the hold of a response."""
    columns = build_table("t").c
    longest = change(name_process(), pid=str(2**22), start=str(100 * 86400 * 3650))
    claim = f"{longest}-{KEYRING.sign(WORKER, 1, 1, b'sealed').nonce}"
    assert len(claim) <= columns.lease_by.type.impl.length  # type: ignore[attr-defined]
    assert len(name_response(longest)) <= columns.held_by.type.impl.length  # type: ignore[attr-defined]
