"""The drill over three nodes and an etcd of three members: besides, what becomes of sessions when etcd is in trouble. Told as it goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from .drill import POLL_S, WHOAMI, log_in
from .etcd import Member, leader
from .proxy import Proxy
from .story import Story
from .three_nodes import FRESHNESS_LIMIT_S, Nodes, asked_until, leave, out_of_contact, probes, refused_at, told_before, whatever_they_share
from .visitor import Visitor, expect, told


def tell(story: Story, nodes: Nodes, members: Sequence[Member], way_of_c: Proxy) -> None:
    """The whole drill. At its end all are up.

    Args:
        members: of the etcd that the nodes share.
        way_of_c: through which node c, and no other, reaches them.
    """
    whatever_they_share(story, nodes)
    the_leader_dies(story, nodes, members)
    a_node_is_cut_off(story, nodes, way_of_c)
    a_majority_of_etcd_dies(story, nodes, members)


def the_leader_dies(story: Story, nodes: Nodes, members: Sequence[Member]) -> None:
    story.chapter("The etcd member that leads the others is killed (kill -9)")
    with Visitor(nodes.a.url) as ada, Visitor(nodes.b.url) as grace, Visitor(nodes.c.url) as thief:
        log_in(ada, "ada")
        log_in(grace, "grace")
        thief.token = grace.token
        first = leader(members)
        began = time.perf_counter()
        with asked_all_along(ada) as answers:
            first.kill()
            with story.step("grace logs out on b") as step:
                step.took_s, mode = leave(grace)
                expect("fenced, or written down", mode in ("fenced", "provisional"))
                step.told = f"200, {mode}: " + ("waited until etcd had a leader" if mode == "fenced" else "written down, to be made good")
            with story.step("a captured copy of her cookie, on c") as step:
                allowed = (401, 503) if mode == "fenced" else (200, 401, 503)
                step.told = told(
                    asked_until(thief, lambda response: response.status_code == 401, allowed=allowed)[-1], 401, "session_revoked"
                )
            with story.step("who leads now") as step:
                second = leader([member for member in members if member is not first])
                step.told = f"{second.name}, after {first.name}"
            with story.step(f"{first.name} is started again") as step:
                first.start()
                first.wait_until_ready()
                step.told = "it has what it missed"
        with story.step("ada's session on a, asked all along") as step:
            expect("no refusal but for now", answers.keys() <= {"200", "503 state_stale"})
            step.told = ", ".join(f"{answer} ({count} times)" for answer, count in answers.items())
            step.took_s = time.perf_counter() - began


@contextmanager
def asked_all_along(visitor: Visitor) -> Iterator[Counter[str]]:
    """What a node answers to somebody who asks for as long as the context is open."""
    answers: Counter[str] = Counter()
    over = Event()

    def ask() -> None:
        while not over.wait(POLL_S / 5):
            response = visitor.get(WHOAMI)
            answers["200" if response.status_code == 200 else f"{response.status_code} {response.json()['code']}"] += 1

    with ThreadPoolExecutor(1) as aside:
        asking = aside.submit(ask)
        try:
            yield answers
        finally:
            over.set()
            asking.result()


def a_node_is_cut_off(story: Story, nodes: Nodes, way_of_c: Proxy) -> None:
    story.chapter("c is cut off from etcd, and asked all along")
    with Visitor(nodes.a.url) as grace, Visitor(nodes.c.url) as ada, Visitor(nodes.c.url) as thief, ThreadPoolExecutor(1) as aside:
        log_in(ada, "ada")
        log_in(grace, "grace")
        thief.token = grace.token
        way_of_c.stall()
        refused = aside.submit(refused_at, thief, time.perf_counter())
        with story.step("grace logs out on a, which cannot tell c") as step:
            step.took_s, mode = leave(grace)
            expect("fenced", mode == "fenced")
            expect("no copy is accepted from then on", thief.get(WHOAMI).status_code != 200)
            step.told = f"200, {mode}: waited until c would accept nothing any more"
        with story.step("a copy of her cookie, on c") as step:
            refusal, step.took_s = refused.result()
            step.told = told(refusal, 503, "state_stale")
        with story.step(f"ada's session on c, which is {FRESHNESS_LIMIT_S} s behind") as step:
            step.told = told(ada.get(WHOAMI), 503, "state_stale")
        with Visitor(nodes.b.url, ada.token) as on_b, story.step("there, on b") as step:
            step.told = told(on_b.get(WHOAMI), 200)
        probes(story, ada, "c")
        way_of_c.mend()
        mended = time.perf_counter()
        with story.step("mended: ada's session on c") as step:
            answers = asked_until(ada, lambda response: response.status_code == 200, allowed=(200, 503))
            step.told = f"{told_before(answers)}200, by itself"
            step.took_s = time.perf_counter() - mended
        with story.step("the copy of grace's cookie, on c") as step:
            step.told = told(thief.get(WHOAMI), 401, "session_revoked")


def a_majority_of_etcd_dies(story: Story, nodes: Nodes, members: Sequence[Member]) -> None:
    story.chapter("Two of three etcd members are killed (kill -9): nobody can be told anything")
    lost = members[:2]

    def kill() -> None:
        for member in lost:
            member.kill()

    def start() -> None:
        for member in lost:
            member.start()

    out_of_contact(story, nodes, kill, start, "started again")
