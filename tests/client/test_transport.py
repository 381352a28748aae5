"""The transports of httpx and httpx2: each request reaches a node that is well, and is sent again where that is right."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from ha_session_mw._core.calls.retry import LONGEST_WAIT_S
from ha_session_mw.client import AsyncNodesTransport, LogInAgain, NodesTransport, RequestRefused, TryLater, problem_of, raise_for_problem
from ha_session_mw.client.problems import LONGEST

from .acting import KINDS, URLS, Asked, Stage, User, error, problem, quorum_lost, revoked, stale, well

N1, N2, N3 = URLS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Which node


def test_a_request_goes_to_one_node_and_the_next_one_too(kind: str) -> None:
    stage = Stage()
    user = User(kind, stage)
    assert [user.get("/a?b=%20c").text, user.get("/d").text] == [N1, N1]
    assert stage.asked[0].path == "/a?b=%20c"
    assert stage.asked[0].headers["host"] == "n1.test"


@pytest.mark.parametrize("fault", [error("ConnectError"), error("ConnectTimeout"), stale])
def test_another_node_answers_what_one_cannot_and_keeps_the_client(kind: str, fault: Any) -> None:
    stage = Stage(n1=[fault])
    user = User(kind, stage)
    assert [user.ask("POST", "/", json={"x": 1}).text for _ in range(3)] == [N2] * 3
    assert stage.nodes == [N1, N2, N2, N2]
    assert {asked.body for asked in stage.asked} == {b'{"x":1}'} or {asked.body for asked in stage.asked} == {b'{"x": 1}'}
    assert stage.asked[1].headers["host"] == "n2.test:8080"
    assert user.waits == [0.0]


def test_a_url_of_no_node_is_left_to_the_inner_transport(kind: str) -> None:
    stage = Stage()
    stage.parts["http://elsewhere.test"] = iter([well])
    user = User(kind, stage)
    assert user.get("http://elsewhere.test/").text == "http://elsewhere.test"


def test_a_node_must_take_the_connection_soon_if_there_are_others(kind: str) -> None:
    stage = Stage()
    User(kind, stage, timeout=30).get("/")
    assert stage.asked[0].timeout == {"connect": 2.0, "read": 30, "write": 30, "pool": 30}


@pytest.mark.parametrize("urls", [[], "http://n1.test", ["n1.test"], ["http://n1.test/app"], ["ftp://n1.test"], ["http://u:p@n1.test"]])
def test_a_list_that_names_no_nodes_is_refused_at_once_and_shows_no_password(urls: Any) -> None:
    for transport in (NodesTransport, AsyncNodesTransport):
        with pytest.raises(ValueError, match="URL") as refused:
            transport(urls)
        assert "u:p" not in str(refused.value)


# Again or not


def test_a_request_whose_execution_is_unknown_is_repeated_only_if_it_is_safe(kind: str) -> None:
    for name in ("ReadError", "RemoteProtocolError", "ReadTimeout", "WriteError"):
        assert User(kind, Stage(n1=[error(name)])).get("/").text == N2
        stage = Stage(n1=[error(name)])
        user = User(kind, stage)
        with pytest.raises(user.errors(name)):
            user.ask("POST", "/", content=b"pay")
        assert stage.nodes == [N1]


def test_a_refusal_that_breaks_off_says_as_little_as_no_answer(kind: str) -> None:
    def breaking(asked: Asked) -> Any:
        class Breaking(asked.library.SyncByteStream, asked.library.AsyncByteStream):  # type: ignore[misc, name-defined]
            def __iter__(self) -> Iterator[bytes]:
                yield b'{"code": "state_stale", "outcome": "not_executed"'
                raise asked.library.ReadError("played")

            async def __aiter__(self) -> AsyncIterator[bytes]:
                for chunk in iter(self):
                    yield chunk

        return 503, [("content-type", "application/problem+json")], Breaking()

    assert User(kind, Stage(n1=[breaking])).get("/").text == N2
    stage = Stage(n1=[breaking])
    user = User(kind, stage)
    with pytest.raises(user.errors("ReadError")):
        user.ask("POST", "/", content=b"pay")
    assert stage.nodes == [N1]


def test_the_callers_idempotency_key_makes_it_safe(kind: str) -> None:
    stage = Stage(n1=[error("ReadError")])
    assert User(kind, stage).ask("POST", "/", content=b"pay", headers={"Idempotency-Key": "1"}).text == N2
    assert [asked.headers["idempotency-key"] for asked in stage.asked] == ["1", "1"]


def test_a_post_that_a_handler_has_seen_is_the_callers(kind: str) -> None:
    stage = Stage(n1=[problem(503, "quorum_lost", outcome="executed", retryable=True, retry_where="any")])
    assert User(kind, stage).ask("POST", "/").status_code == 503
    assert stage.nodes == [N1]


def test_a_problem_that_lacks_an_outcome_is_taken_for_unknown(kind: str) -> None:
    stage = Stage(n1=[problem(503, "state_stale", outcome=None, retry_where="other_node")])
    assert User(kind, stage).ask("POST", "/").status_code == 503


def test_the_wait_of_the_hint_is_kept_where_all_nodes_are_concerned(kind: str) -> None:
    stage = Stage(n1=[quorum_lost], n2=[quorum_lost])
    user = User(kind, stage)
    assert user.get("/").text == N3
    assert user.waits == [1.5, 1.5]


def test_after_three_tries_the_last_answer_is_the_callers(kind: str) -> None:
    stage = Stage(n1=[stale], n2=[stale], n3=[stale])
    response = User(kind, stage).get("/")
    assert response.status_code == 503
    assert response.json()["code"] == "state_stale"
    assert len(stage.asked) == 3


def test_what_a_balancer_answers_for_a_dead_node_is_asked_again(kind: str) -> None:
    stage = Stage(n1=[lambda _: (502, [("content-type", "text/html")], b"Bad Gateway")])
    assert User(kind, stage).get("/").text == N2
    assert User(kind, Stage(n1=[lambda _: (502, [], b"")])).ask("POST", "/").status_code == 502


def test_a_streamed_body_is_sent_once(kind: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"one"

    async def async_chunks() -> AsyncIterator[bytes]:
        yield b"one"

    body = async_chunks if " on " in kind else chunks
    stage = Stage(n1=[stale])
    assert User(kind, stage).ask("PUT", "/", content=body()).status_code == 503
    assert [asked.body for asked in stage.asked] == [b"one"]


# The answer


def test_the_answer_of_another_node_is_an_answer_to_the_callers_request(kind: str) -> None:
    def sets_a_cookie(_: Asked) -> Any:
        return 200, [("set-cookie", "theme=dark; Path=/")], b""

    stage = Stage(n1=[error("ConnectError")], n2=[sets_a_cookie, well])
    user = User(kind, stage)
    response = user.get("/")
    assert str(response.request.url) == f"{N1}/"
    user.get("/again")
    assert stage.asked[-1].headers["cookie"] == "theme=dark"


def test_a_compressed_problem_is_understood(kind: str) -> None:
    document = json.loads(stale(None)[2])  # type: ignore[arg-type]

    def zipped(_: Asked) -> Any:
        fields = [("content-type", "application/problem+json; charset=utf-8"), ("content-encoding", "gzip")]
        return 503, fields, gzip.compress(json.dumps(document).encode())

    assert User(kind, Stage(n1=[zipped])).get("/").text == N2


BOMB = gzip.compress(b" " * 30_000_000)


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ([], b"not JSON"),
        ([], b'"a text"'),
        ([], b"[" * 50_000),
        ([], b'{"code": 7}'),
        ([], b'{"code": "state_stale", "status": "x", "action": [], "retryable": "yes"}'),
        ([("content-encoding", "br")], b"\x00"),
        ([("content-encoding", "deflate")], b"\x00"),
    ],
)
def test_a_problem_that_is_none_is_the_callers_as_it_came(kind: str, fields: list[tuple[str, str]], body: bytes) -> None:
    stage = Stage(n1=[lambda _: (409, [("content-type", "application/problem+json"), *fields], body)])
    assert User(kind, stage).raw("/") == (409, body)
    assert stage.nodes == [N1]


def test_a_bomb_is_not_unpacked_and_an_endless_body_is_read_no_further_than_a_problem_may_be_long(kind: str) -> None:
    packed = [("content-type", "application/problem+json"), ("content-encoding", "gzip")]
    stage = Stage(n1=[lambda _: (409, packed, BOMB)])
    assert User(kind, stage).raw("/") == (409, BOMB)

    read: list[int] = []

    def endless(asked: Asked) -> Any:
        class Endless(asked.library.SyncByteStream, asked.library.AsyncByteStream):  # type: ignore[misc, name-defined]
            def __iter__(self) -> Iterator[bytes]:
                for number in range(1_000):
                    read.append(number)
                    yield b"x" * 10_000

            async def __aiter__(self) -> AsyncIterator[bytes]:
                for chunk in iter(self):
                    yield chunk

        return 409, [("content-type", "application/problem+json")], Endless()

    stage = Stage(n1=[endless])
    user = User(kind, stage)

    def begin() -> Any:
        return user.client.send(user.client.build_request("GET", "/"), stream=True)

    assert user.play(begin).status_code == 409
    assert len(read) == LONGEST // 10_000 + 1
    _, body = User(kind, Stage(n1=[endless])).raw("/")
    assert len(body) == 10_000_000


def test_a_hint_of_hours_is_obeyed_up_to_a_limit(kind: str) -> None:
    hours = problem(503, "quorum_lost", retry_where="any", retry_after_ms=86_400_000)
    user = User(kind, Stage(n1=[hours], n2=[hours], n3=[hours]))
    assert user.get("/").status_code == 503
    assert user.waits == [LONGEST_WAIT_S] * 2


@pytest.mark.parametrize("told", [{"status": 200}, {"status": 503, "code": "of a later release"}])
def test_a_refusal_counts_whatever_its_status_and_code(kind: str, told: dict[str, Any]) -> None:
    document = {"code": "state_stale", "retry_where": "other_node", **told}
    assert User(kind, Stage(n1=[problem(**document)])).ask("POST", "/", content=b"tea").text == N2


def test_a_problem_that_comes_a_byte_now_and_then_is_the_callers_after_the_deadline(kind: str) -> None:
    read: list[int] = []

    def dripping(asked: Asked) -> Any:
        class Dripping(asked.library.SyncByteStream, asked.library.AsyncByteStream):  # type: ignore[misc, name-defined]
            def __iter__(self) -> Iterator[bytes]:
                for number in range(100):
                    user.now_s += 4
                    read.append(number)
                    yield b"x"

            async def __aiter__(self) -> AsyncIterator[bytes]:
                for chunk in iter(self):
                    yield chunk

        return 409, [("content-type", "application/problem+json")], Dripping()

    user = User(kind, Stage(n1=[dripping]))

    def begin() -> Any:
        return user.client.send(user.client.build_request("GET", "/"), stream=True)

    assert user.play(begin).status_code == 409
    assert len(read) == 3


# Redirects


def test_a_redirect_to_another_node_is_followed_with_body_and_credentials(kind: str) -> None:
    stage = Stage(n1=[lambda _: (307, [("location", f"{N3}/rooms/7?x=1")], b"")])
    user = User(kind, stage, headers={"Authorization": "Bearer hs1.s.k.p.g"})
    assert user.ask("POST", "/rooms/7?x=1", content=b"hello").text == N3
    assert [asked.body for asked in stage.asked] == [b"hello", b"hello"]
    assert stage.asked[1].headers["authorization"] == "Bearer hs1.s.k.p.g"
    assert stage.asked[1].path == "/rooms/7?x=1"


@pytest.mark.parametrize(
    "location", ["http://evil.test/", "//evil.test/", "/log-in", "http://n1.test.evil.test/", "http://n3.test@evil.test/", ""]
)
def test_any_other_redirect_is_the_callers(kind: str, location: str) -> None:
    stage = Stage(n1=[lambda _: (307, [("location", location)], b"")])
    assert User(kind, stage).get("/").status_code == 307
    assert stage.nodes == [N1]


def test_a_redirect_is_followed_once(kind: str) -> None:
    stage = Stage(n1=[lambda _: (307, [("location", f"{N2}/")], b"")], n2=[lambda _: (307, [("location", f"{N1}/")], b"")])
    assert User(kind, stage).get("/").status_code == 307
    assert stage.nodes == [N1, N2]


# Tokens

OLD, NEW, OTHER = "hs1.sid1.kid.old.sig", "hs1.sid1.kid.new.sig", "hs1.sid2.kid.other.sig"


def test_a_renewed_bearer_token_takes_the_place_of_the_old_one(kind: str) -> None:
    stage = Stage(n1=[lambda _: (200, [("session-token", NEW)], b""), well])
    user = User(kind, stage, headers={"Authorization": f"Bearer {OLD}"})
    user.get("/")
    user.get("/")
    assert [asked.headers["authorization"] for asked in stage.asked] == [f"Bearer {OLD}", f"Bearer {NEW}"]


def test_a_token_is_replaced_only_by_its_own_successor(kind: str) -> None:
    stage = Stage(n1=[lambda _: (200, [("session-token", NEW)], b""), well])
    user = User(kind, stage)
    user.get("/", headers={"Authorization": "Bearer hs1.sid9.kid.grace.sig"})
    user.get("/", headers={"Authorization": f"Bearer {OLD}"})
    assert stage.asked[1].headers["authorization"] == f"Bearer {OLD}"


def test_a_request_becomes_one_of_a_new_id_only_once_a_node_says_that_its_own_is_superseded(kind: str) -> None:
    superseded = problem(409, "session_superseded", retry_where="any", retry_after_ms=50)
    stage = Stage(n1=[lambda _: (200, [("session-token", OTHER)], b""), superseded, well])
    user = User(kind, stage, headers={"Authorization": f"Bearer {OLD}"})
    user.get("/log-in")
    assert user.get("/").status_code == 200
    assert [asked.headers["authorization"] for asked in stage.asked] == [f"Bearer {each}" for each in (OLD, OLD, OTHER)]


@pytest.mark.parametrize("by", ["bearer", "cookie"])
def test_a_late_answer_under_the_old_id_costs_a_client_no_new_id(kind: str, by: str) -> None:
    """A node that has not heard of the new id yet renews the old one, and a cookie jar takes that for the newest."""

    def hands_out(token: str) -> Any:
        fields = {"bearer": ("session-token", token), "cookie": ("set-cookie", f"session={token}; Path=/")}
        return lambda _: (200, [fields[by]], b"")

    superseded = problem(409, "session_superseded", retry_where="any", retry_after_ms=50)
    stage = Stage(n1=[hands_out(OTHER), hands_out(NEW), superseded, well])
    old = {"Authorization": f"Bearer {OLD}"} if by == "bearer" else {"Cookie": f"session={OLD}"}
    user = User(kind, stage)
    user.get("/log-in", headers=old)
    user.get("/late", headers=old)
    assert user.get("/", headers=old if by == "bearer" else {"Cookie": f"session={NEW}"}).status_code == 200
    assert OTHER in stage.asked[-1].headers["authorization" if by == "bearer" else "cookie"]


# Logging in again


def log_in_by(path: str) -> Any:
    return lambda user: user.client.request("POST", path)


def hands_out(token: str) -> Any:
    return lambda _: (200, [("set-cookie", f"session={token}; Path=/; HttpOnly")], b"in")


def test_a_session_that_has_ended_is_begun_anew_and_the_request_goes_on(kind: str) -> None:
    stage = Stage(n1=[hands_out(OLD), revoked, hands_out(OTHER), well])
    user = User(kind, stage, reauthenticate=log_in_by("/log-in"))
    user.get("/")
    assert user.ask("POST", "/order", content=b"tea").text == N1
    assert [asked.path for asked in stage.asked] == ["/", "/order", "/log-in", "/order"]
    assert stage.asked[-1].headers["cookie"] == f"session={OTHER}"
    user.get("/")
    assert stage.asked[-1].headers["cookie"] == f"session={OTHER}"


def test_a_client_that_never_got_the_newer_token_logs_in(kind: str) -> None:
    superseded = problem(409, "session_superseded", retry_where="any", retry_after_ms=50)
    stage = Stage(n1=[hands_out(OLD), superseded, superseded, hands_out(OTHER), well])
    user = User(kind, stage, reauthenticate=log_in_by("/log-in"))
    user.get("/")
    assert user.get("/cart").text == N1
    assert [asked.path for asked in stage.asked] == ["/", "/cart", "/cart", "/log-in", "/cart"]
    assert stage.asked[-1].headers["cookie"] == f"session={OTHER}"


def test_a_client_without_a_session_gets_one(kind: str) -> None:
    missing = problem(401, "token_missing", action="reauthenticate", retryable=False, retry_where="none")
    stage = Stage(n1=[missing, hands_out(OTHER), well])
    user = User(kind, stage, reauthenticate=log_in_by("/log-in"))
    assert user.get("/", headers={"Cookie": "theme=dark"}).text == N1
    assert stage.asked[-1].headers["cookie"] == f"theme=dark; session={OTHER}"


def test_a_cluster_that_refuses_each_new_session_is_not_flooded_with_log_ins(kind: str) -> None:
    def answer(asked: Asked) -> Any:
        return hands_out(OTHER)(asked) if asked.path == "/log-in" else revoked(asked)

    stage = Stage(n1=[answer])
    user = User(kind, stage, reauthenticate=log_in_by("/log-in"))
    for _ in range(20):
        assert user.get("/").status_code == 401
    paths = [asked.path for asked in stage.asked]
    assert paths.count("/log-in") == 3
    assert paths.count("/") <= 23


def test_a_log_in_that_fails_is_the_callers_and_is_not_tried_within_itself(kind: str) -> None:
    stage = Stage(n1=[revoked])

    class WrongPasswordError(Exception):
        pass

    def log_in(user: User) -> Any:
        async def later() -> None:
            assert (await user.client.post("/log-in")).status_code == 401
            raise WrongPasswordError

        if " on " in kind:
            return later()
        assert user.client.post("/log-in").status_code == 401
        raise WrongPasswordError

    user = User(kind, stage, reauthenticate=log_in)
    with pytest.raises(WrongPasswordError):
        user.get("/")
    assert [asked.path for asked in stage.asked] == ["/", "/log-in"]


# Errors and the log


def test_a_refusal_is_an_error_that_says_what_to_do() -> None:
    answers = {401: revoked, 503: stale, 400: problem(400, "token_malformed", action="fix_request", retryable=False)}
    kinds = {401: LogInAgain, 503: TryLater, 400: RequestRefused}
    for status, answer in answers.items():
        user = User("httpx2", Stage(n1=[answer], n2=[answer], n3=[answer]))
        response = user.get("/")
        with pytest.raises(kinds[status]) as raised:
            raise_for_problem(response)
        assert raised.value.problem.status == status
        assert raised.value.response is response
    assert problem_of(User("httpx2", Stage()).get("/")) is None
    raise_for_problem(User("httpx2", Stage()).get("/"))


def test_each_failed_try_is_logged_without_a_secret(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ha_session_mw.client")
    User(kind, Stage(n1=[stale], n2=[error("ReadError")], n3=[stale]), headers={"Authorization": f"Bearer {OLD}"}).get("/secret?q=1")
    lines = [record.getMessage() for record in caplog.records if record.name == "ha_session_mw.client"]
    assert [line.partition(";")[0] for line in lines] == [
        "try 1 at http://n1.test:80: state_stale",
        "try 2 at http://n2.test:8080: ReadError",
        "try 3 at http://n3.test:80: state_stale",
    ]
    assert "given up" in lines[-1]
    assert not any(word in line for line in lines for word in ("hs1", "secret", "q=1"))
