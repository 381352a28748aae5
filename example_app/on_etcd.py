"""The drill on three nodes and three etcd members: also what happens to sessions when etcd fails."""

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
    """Run the whole drill. All nodes and members are up when it ends.

    Args:
        members: the etcd members that the nodes share.
        way_of_c: the proxy through which node c, and no other node, reaches them.
    """
    whatever_they_share(story, nodes)
    the_leader_dies(story, nodes, members)
    a_node_is_cut_off(story, nodes, way_of_c)
    a_majority_of_etcd_dies(story, nodes, members)


def the_leader_dies(story: Story, nodes: Nodes, members: Sequence[Member]) -> None:
    story.chapter("The leader of etcd is killed (kill -9)")
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
                expect("fenced or provisional", mode in ("fenced", "provisional"))
                step.told = f"200, {mode}: " + (
                    "waited until etcd had a leader" if mode == "fenced" else "in b's journal, to be replicated later"
                )
            with story.step("a captured copy of grace's cookie, on c") as step:
                allowed = (401, 503) if mode == "fenced" else (200, 401, 503)
                step.told = told(
                    asked_until(thief, lambda response: response.status_code == 401, allowed=allowed)[-1], 401, "session_revoked"
                )
            with story.step("the new leader") as step:
                second = leader([member for member in members if member is not first])
                step.told = f"{second.name}, after {first.name}"
            with story.step(f"{first.name} is started again") as step:
                first.start()
                first.wait_until_ready()
                step.told = "it has caught up"
        with story.step("ada's session on a, during all of this") as step:
            expect("no refusal but state_stale", answers.keys() <= {"200", "503 state_stale"})
            step.told = ", ".join(f"{answer} ({count} times)" for answer, count in answers.items())
            step.took_s = time.perf_counter() - began
    for node in nodes:  # each has used up most of its freshness limit by now
        node.wait_until_ready()


@contextmanager
def asked_all_along(visitor: Visitor) -> Iterator[Counter[str]]:
    """Ask a node about a session while the context is open; give the count of each answer."""
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
    story.chapter("c is cut off from etcd, while requests go to it")
    with Visitor(nodes.a.url) as grace, Visitor(nodes.c.url) as ada, Visitor(nodes.c.url) as thief, ThreadPoolExecutor(1) as aside:
        log_in(ada, "ada")
        log_in(grace, "grace")
        thief.token = grace.token
        way_of_c.stall()
        refused = aside.submit(refused_at, thief, time.perf_counter())
        with story.step("grace logs out on a, and c does not hear of it") as step:
            step.took_s, mode = leave(grace)
            expect("fenced", mode == "fenced")
            expect("no accepted copy from then on", thief.get(WHOAMI).status_code != 200)
            step.told = f"200, {mode}: waited until c's lease was over"
        with story.step("a copy of grace's cookie, on c") as step:
            refusal, step.took_s = refused.result()
            step.told = told(refusal, 503, "state_stale")
        with story.step(f"ada's session on c, stale after {FRESHNESS_LIMIT_S} s") as step:
            step.told = told(ada.get(WHOAMI), 503, "state_stale")
        with Visitor(nodes.b.url, ada.token) as on_b, story.step("ada's session on b") as step:
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
    story.chapter("Two of three etcd members are killed (kill -9)")
    lost = members[:2]

    def kill() -> None:
        for member in lost:
            member.kill()

    def start() -> None:
        for member in lost:
            member.start()

    out_of_contact(story, nodes, kill, start, "started again")
