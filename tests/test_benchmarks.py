"""The benchmarks still run, with counts too small to tell anything."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.benchmarks import cluster, contenders, idle, imports, learning, picture, report, scale, served, stored
from tests.benchmarks.__main__ import Effort, Measurement, print_part
from tests.benchmarks.contenders import Contender, MissingError, NotReadError, Reader
from tests.benchmarks.rounds import race
from tests.engines import Etcd

TINY = Effort(requests=3, rounds=1, server_rounds=1, sessions=(2, 5), grown=4, denials=7, log_ins=4, tokens=6)


def test_every_contender_reads_its_session_has_its_row_and_is_in_the_picture() -> None:
    measurement = Measurement(TINY)
    (of_all,), (of_sizes,), (of_memory, of_growth, of_day) = measurement.requests(), measurement.growth(), measurement.memory()
    first_cells = [row[0] for row in of_all.rows]
    assert {contenders.BARE, contenders.STARLETTE, contenders.WARM, contenders.WARM_COUNTED, contenders.FIRST_SIGHT, contenders.PYJWT} <= {
        *first_cells
    }
    assert [row[0] for row in of_sizes.rows] == [
        f"{name}, {draw}"
        for name in ("2 live sessions", "5 live sessions", "5 header fields of one session", "100 live sessions, 7 denials")
        for draw in (scale.BY_ZIPF, scale.ALIKE)
    ] + [f"{what}, {scale.UNSEEN}" for what in ("no denials", "7 denials in a dict", "7 denials")]
    assert 4 <= int(of_day.rows[0][1]) <= 8
    assert [row[0] for row in of_memory.rows] == ["6 tokens in the cache", "6 tokens whose subject the app reads", "7 denials"]
    for table in (of_all, of_sizes, of_memory, of_growth, of_day):
        assert table.title in table.text()
        assert table.markdown().count("\n") == len(table.rows) + 3

    image = ElementTree.fromstring(picture.drawn(measurement.shown))
    assert {text.text for text in image.iter() if text.tag.endswith("text")} >= {"ours, cookie", "ours, the whole middleware", "5"}


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await contenders.answer(send)


def _run(contender: Contender) -> None:
    asyncio.run(race([contender], requests=2, rounds=1))


def test_a_contender_that_refuses_its_token_cannot_look_fast() -> None:
    with pytest.raises(NotReadError, match="0 of 2 requests reached the app"):
        _run(contenders.requests("quick", _refuse, Reader(), lambda count: [None] * count))


def test_a_contender_that_gives_the_app_an_empty_session_cannot_look_fast() -> None:
    reader = Reader()
    app = contenders.ours_with(contenders.new_manager())(reader)
    with pytest.raises(NotReadError, match="was given the session"):
        _run(contenders.requests("empty", app, reader, lambda count: [(b"cookie", b"session=hs1.not.to.be.read")] * count))


def _one_table() -> Iterator[report.Table]:
    yield report.Table("figures", ("of", "best", "", ""), [["ours", "1", "", ""]])


def _fails() -> Iterator[report.Table]:
    yield from _one_table()
    raise NotReadError("the app was not reached")


def _lacks_a_program() -> Iterator[report.Table]:
    yield from _one_table()
    raise MissingError("install it:  apt-get install it")


def _takes_too_long() -> Iterator[report.Table]:
    yield from _one_table()
    signal.raise_signal(signal.SIGALRM)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (_fails, "the app was not reached"),
        (_lacks_a_program, "apt-get install it"),
        (_takes_too_long, "longer than 600 s"),
        (_one_table, ""),
    ],
)
def test_a_part_that_was_not_measured_in_full_shows_what_it_has_and_why_not_more(
    part: Callable[[], Iterator[report.Table]], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGALRM)
    assert print_part("served", part, report.Table.text) is not bool(says)
    output = capsys.readouterr()
    assert "figures" in output.out
    assert says in output.err
    assert "served: 0 s" in output.err
    assert signal.getsignal(signal.SIGALRM) == before


def test_the_import_of_the_package_has_its_row() -> None:
    table = report.imports(*imports.times_ms(1))
    assert [row[0] for row in table.rows] == ["ha_session_mw", "starlette.applications and the dependencies"]
    assert table.title in table.text()


@pytest.mark.parametrize(("figure", "mark"), [(0.14, "✓"), (0.15, "✗")])
def test_a_budget_is_kept_or_not(figure: float, mark: str) -> None:
    assert report.WARM.judge(figure)[-1] == mark


def test_a_missing_load_generator_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingError, match="apt-get install -y wrk"):
        served.requests_per_second([*served.SERVERS], starts=1, rounds=1, seconds=1)


async def _answer(app: ASGIApp, path: str, cookie: bytes | None = None) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The body and the fields of an answer."""
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    headers = contenders.headers_with(None if cookie is None else (b"cookie", cookie))
    await app(contenders.scope_of(headers, path), contenders.receive, keep)
    return b"".join(message.get("body", b"") for message in messages), messages[0]["headers"]


@pytest.mark.parametrize("app", [*served.FIELDS])
def test_the_contenders_under_a_server_answer_with_the_same_body_and_the_same_fields(app: str) -> None:
    async def alike(name: str) -> tuple[bytes, set[bytes]]:
        contender, cookie = served.contender(app, name), None
        if name not in served.WITHOUT_SESSION:
            _, fields = await _answer(contender, served.LOG_IN_PATH)
            cookie = dict(fields)[b"set-cookie"].partition(b";")[0]
        body, fields = await _answer(contender, "/account", cookie)
        return body, {name for name, _ in fields}

    first, *others = [asyncio.run(alike(name)) for name in served.FIELDS[app]]
    assert b"vary" in first[1]
    assert others == [first] * len(others)


@pytest.mark.real
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server: apt-get install -y redis-server")
def test_a_session_on_the_server_is_read_and_changed_by_each_and_has_its_row() -> None:
    table, together = Measurement(TINY).stored()
    assert [row[0] for row in table.rows] == [
        contenders.BARE,
        stored.REDIS,
        *(f"{stored.WARM}, {stored.IN_MEMORY}", f"{stored.WARM}, {stored.IN_FILE}", f"{stored.COLD}, {stored.IN_FILE}"),
        stored.REDIS_CHANGE,
        *(f"{stored.CHANGE}, {stored.IN_MEMORY}", f"{stored.CHANGE}, {stored.IN_FILE}"),
    ]
    assert [row[4] for row in table.rows if row[0] in (stored.REDIS, stored.REDIS_CHANGE)] == ["1.000", "1.000"]
    changed = [stored.REDIS_CHANGE, f"{stored.CHANGE}, {stored.IN_MEMORY}", f"{stored.CHANGE}, {stored.IN_FILE}"]
    assert [row[0] for row in together.rows] == [contenders.BARE, *changed]


def test_a_missing_redis_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingError, match="apt-get install -y redis-server"):
        asyncio.run(stored.measured(requests=3, rounds=1))


@pytest.mark.real
def test_each_log_out_is_seen_to_be_enforced_on_both_other_nodes() -> None:
    times = cluster.log_out_times(3)
    assert (len(times.refused_s), len(times.acknowledged_s), len(times.cycled_s)) == (6, 3, 3)
    table = report.log_outs(times, cluster.PEERS)
    assert [row[4] for row in table.rows] == ["≤ 50 ms", "≤ 150 ms", ""]
    assert table.title in table.markdown()


@pytest.mark.real
def test_a_cluster_that_nobody_uses_takes_some_time_all_the_same() -> None:
    percent = idle.percent_of_a_core(3, 1.0, settled_s=0.0)
    assert 0 < percent < 100
    table = report.idle({3: percent, 9: 1.6})
    assert [row[-1] for row in table.rows][1] == "✗"
    assert table.title in table.markdown()


@pytest.mark.real
def test_a_new_node_on_etcd_is_seen_to_learn_everything(one_etcd: Etcd) -> None:
    learned = {"etcd://": learning.new_node(one_etcd.cluster("bench"), 150)}
    table = report.new_node(150, learned)
    assert [row[0] for row in table.rows] == [*learned]
    assert table.title in table.markdown()


@pytest.mark.real
def test_a_new_member_and_a_new_worker_are_seen_to_learn_everything() -> None:
    assert all(ready_s > 0 for ready_s, _ in (learning.new_member(150), learning.new_worker(150)))


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (99, 4), (100, 4), (1, 1)])
def test_a_percentile_is_one_of_the_values(percent: int, value: int) -> None:
    assert report.percentile([1, 2, 3, 4], percent) == value
