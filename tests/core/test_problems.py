"""Problem documents: the members, the header fields and the pages of each refusal."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.problems import challenge, document, headers, prefers_html, reference_page, refusal_page
from ha_session_mw.exceptions import (
    InfrastructureFault,
    InsufficientUserAuthentication,
    KeyNotReached,
    NodeStarting,
    ProblemError,
    RequestAmbiguous,
    SessionRevoked,
    StateStale,
    TokenInvalid,
    TokenMissing,
    TokenNotYetValid,
    problem_types,
)

TYPES = problem_types()
EVERY = pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)


def body_of(problem: ProblemError, *, full: bool = False) -> dict[str, object]:
    return document(problem, endpoints="/-/session", instance="urn:uuid:0", full=full)


# As section 10 of the design has it, by hand: status, RFC 6750 error, retryable, where, after (ms), action.
TABLE: dict[str, tuple[int, str | None, bool, str, int | None, str]] = {
    "token_missing": (401, None, False, "none", None, "reauthenticate"),
    "insufficient_user_authentication": (401, "insufficient_user_authentication", False, "none", None, "reauthenticate"),
    "request_ambiguous": (400, "invalid_request", False, "none", None, "fix_request"),
    "headers_too_large": (431, None, False, "none", None, "fix_request"),
    "token_too_large": (400, "invalid_request", False, "none", None, "fix_request"),
    "token_malformed": (400, "invalid_request", False, "none", None, "fix_request"),
    "token_invalid": (401, "invalid_token", False, "none", None, "reauthenticate"),
    "token_not_yet_valid": (401, "invalid_token", True, "any", None, "retry"),
    "session_idle_timeout": (401, "invalid_token", False, "none", None, "reauthenticate"),
    "session_expired": (401, "invalid_token", False, "none", None, "reauthenticate"),
    "session_revoked": (401, "invalid_token", False, "none", None, "reauthenticate"),
    "session_data_lost": (401, "invalid_token", False, "none", None, "reauthenticate"),
    "session_limit_reached": (403, None, False, "none", None, "contact"),
    "session_superseded": (409, None, True, "any", 100, "retry"),
    "too_many_log_ins": (429, None, True, "same_node", 1000, "retry"),
    "session_conflict": (409, None, True, "any", 50, "retry"),
    "session_locked": (423, None, True, "any", None, "retry"),
    "request_in_flight": (409, None, True, "any", 1000, "retry"),
    "idempotency_key_reused": (422, None, False, "none", None, "fix_request"),
    "overloaded": (503, None, True, "other_node", 1000, "retry"),
    "state_rollback": (503, None, True, "other_node", 3000, "retry"),
    "state_stale": (503, None, True, "other_node", 250, "retry"),
    "key_not_reached": (503, None, True, "other_node", 250, "retry"),
    "state_not_reached": (503, None, True, "any", 100, "retry"),
    "node_starting": (503, None, True, "other_node", 0, "retry"),
    "node_draining": (503, None, True, "other_node", 0, "retry"),
    "quorum_lost": (503, None, True, "any", 3000, "retry"),
    "store_unavailable": (503, None, True, "any", 3000, "retry"),
    "clock_untrusted": (503, None, True, "other_node", 1000, "retry"),
    "peer_unreachable": (503, None, True, "any", 1000, "retry"),
    "forward_outcome_unknown": (504, None, True, "any", 1000, "retry"),
    "forward_loop": (508, None, True, "any", 1000, "retry"),
    # Of the ready-made routes, which the design leaves open.
    "session_unknown": (404, None, False, "none", None, "fix_request"),
    "request_cross_site": (403, None, False, "none", None, "fix_request"),
}


@pytest.mark.parametrize("code", TYPES)
def test_each_code_matches_its_row_of_the_table(code: str) -> None:
    kind = TYPES[code]
    body = body_of(kind())

    assert (
        *(kind.status, kind.bearer_error),
        *(body[name] for name in ("retryable", "retry_where", "retry_after_ms", "action")),
    ) == TABLE[code]
    assert body == {
        "type": f"/-/session/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail,
        "instance": "urn:uuid:0",
        "code": code,
        **{name: body[name] for name in ("retryable", "retry_where", "retry_after_ms", "action")},
        "outcome": "not_executed",
    }


@EVERY
def test_a_fault_of_the_infrastructure_is_never_a_4xx_and_always_worth_a_retry(kind: type[ProblemError]) -> None:
    if issubclass(kind, InfrastructureFault):
        assert kind.status >= 500
        assert kind.retryable
        assert kind.retry_where != "none"
    else:
        assert 400 <= kind.status < 500


@EVERY
def test_each_code_is_in_the_family_of_its_class_and_its_words_are_plain_ascii(kind: type[ProblemError]) -> None:
    """Titles are parts of header fields and quoted strings (RFC 9110 section 5.6.4)."""
    assert re.fullmatch(r"[a-z_]+", kind.code)
    assert re.fullmatch(r"[ !#-\[\]-~]+", kind.title)
    assert kind.detail.isascii()
    assert kind.__doc__


# Header fields


def fields(problem: ProblemError) -> dict[str, str]:
    found = headers(problem)
    assert len(dict(found)) == len(found)
    return {name.decode(): value.decode() for name, value in found}


@EVERY
def test_no_answer_is_stored(kind: type[ProblemError]) -> None:
    assert fields(kind())["cache-control"] == "no-store"


@EVERY
def test_each_429_and_503_says_when_to_come_back_in_whole_seconds(kind: type[ProblemError]) -> None:
    for after_s in (None, 0.0, 0.001, 1.0, 2.5):
        retry_after = fields(kind(retry_after_s=after_s)).get("retry-after")
        expected = kind.default_retry_after_s if after_s is None else after_s
        assert retry_after == (str(math.ceil(expected or 0)) if kind.status in (429, 503) else None)


@EVERY
def test_each_401_and_bearer_error_names_the_scheme(kind: type[ProblemError]) -> None:
    assert ("www-authenticate" in fields(kind())) is (kind.status == 401 or kind.bearer_error is not None)


@pytest.mark.parametrize(
    ("problem", "value"),
    [
        (TokenMissing(), 'Bearer realm="session"'),
        (TokenInvalid("why"), 'Bearer realm="session", error="invalid_token", error_description="The session token is not valid"'),
        (
            InsufficientUserAuthentication(max_age_s=300),
            'Bearer realm="session", error="insufficient_user_authentication", '
            'error_description="A more recent log-in is required", max_age="300"',
        ),
        (RequestAmbiguous(), 'Bearer realm="session", error="invalid_request", error_description="Several different session tokens"'),
    ],
)
def test_the_challenge_is_that_of_rfc_6750(problem: ProblemError, value: str) -> None:
    assert challenge(problem).decode() == value


# The hint


def test_a_wait_that_is_known_better_is_rounded_up() -> None:
    assert body_of(TokenNotYetValid(retry_after_s=2.0001))["retry_after_ms"] == 2001
    assert body_of(NodeStarting())["retry_after_ms"] == 0
    assert body_of(SessionRevoked())["retry_after_ms"] is None


# The amount of detail


def test_the_reason_and_the_checks_are_shown_at_full_only() -> None:
    problem = TokenInvalid("the signature does not match", check="signature")

    assert not {"reason", "checks"} & body_of(problem).keys()
    full = body_of(problem, full=True)
    assert full["reason"] == "the signature does not match"
    assert [step["check"] for step in full["checks"]] == ["presented", "size", "shape", "key", "signature"]  # type: ignore[attr-defined]
    json.dumps(full)


def test_every_reason_to_refuse_a_token_that_could_be_probed_looks_the_same() -> None:
    reasons = [TokenInvalid(reason, check=check) for reason, check in (("signature", "signature"), ("key", "key"), ("", ""))]

    assert len({json.dumps(body_of(problem)) for problem in reasons}) == 1
    assert len({tuple(headers(problem)) for problem in reasons}) == 1


# Which form


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("application/json", False),
        ("application/problem+json", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", True),
        ("text/html, application/json", False),
        ("text/html;q=0.9, application/json;q=0.8", True),
        ("text/html;q=0.8, application/json;q=0.9", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html;level=1;q=0.4, application/problem+json;q=0.3", True),
        ("text/html;q=0", False),
        ("text/html;q=0.000", False),
        ("text/html;q=x", False),
        ("text/html;q=nan", False),
        ("text/html;q=0.1, */*", False),
        ("text/html;q=0.5, application/*;q=0.6", False),
        ("text/html;q=0.6, application/*;q=0.5", True),
        ("text/*", True),
        ("text/*;q=0.5, application/json;q=0.4", True),
        ("text/plain", False),
        (";;,,;q=", False),
    ],
)
def test_a_client_that_ranks_html_above_json_gets_a_page(accept: str, html: bool) -> None:
    assert prefers_html(accept.lower().split(",")) is html


@given(st.text("texhml/*;q=0.195, jsonaplic+", max_size=60))
def test_no_accept_field_makes_an_error(accept: str) -> None:
    assert prefers_html(accept.lower().split(",")) in (True, False)


# Pages


@EVERY
def test_a_refusals_page_tells_the_facts_of_the_document(kind: type[ProblemError]) -> None:
    problem = kind("because <b>")
    page = refusal_page(problem, body_of(problem)).decode()

    for fact in (kind.title, kind.detail, kind.code, str(kind.status), "urn:uuid:0"):
        assert fact in page.replace("&#x27;", "'")
    assert "because" not in page
    assert "because &lt;b&gt;" in refusal_page(problem, body_of(problem, full=True)).decode()


@EVERY
def test_the_page_that_type_resolves_to_explains_the_code(kind: type[ProblemError]) -> None:
    page = reference_page(kind).decode()

    assert kind.code in page
    assert ("The infrastructure" in page) is issubclass(kind, InfrastructureFault)


def test_the_advice_is_a_sentence() -> None:
    for problem, advice in (
        (StateStale(), "Try again on another node after 0.25 s."),
        (NodeStarting(), "Try again on another node at once."),
        (SessionRevoked(), "Log in again."),
        (KeyNotReached(retry_after_s=2), "Try again on another node after 2 s."),
    ):
        assert advice in refusal_page(problem, body_of(problem)).decode()
