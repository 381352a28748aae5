"""No router of a framework reaches a protected handler by another spelling of its path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import anyio
import litestar
import pytest
from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]
from django.test.utils import override_settings  # type: ignore[import-untyped]
from django.urls import path as django_path  # type: ignore[import-untyped]
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis.strategies import integers, lists, sampled_from, tuples
from quart import Quart
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from ha_session_mw import SessionMiddleware, Settings

from .driver import SECRET, Answer, answered_in_full, scope_of
from .test_frameworks import django_app

REACHED = "the protected handler ran"
PROTECT = "/account,/account/*"


async def handler(request: Request) -> PlainTextResponse:
    return PlainTextResponse(REACHED)


@cache
def starlette_app() -> ASGIApp:
    return Starlette(routes=[Route("/account", handler), Mount("/account", routes=[Route("/x", handler)])])


@cache
def fastapi_app() -> ASGIApp:
    app = FastAPI()
    app.get("/account")(lambda: REACHED)
    app.get("/account/x")(lambda: REACHED)
    return app


@cache
def litestar_app() -> ASGIApp:
    @litestar.get(["/account", "/account/x"])
    async def account() -> str:
        return REACHED

    return litestar.Litestar([account], openapi_config=None)  # type: ignore[return-value]


@cache
def quart_app() -> ASGIApp:
    app = Quart(__name__)

    @app.get("/account")
    @app.get("/account/x")
    async def account() -> str:
        return REACHED

    return app  # type: ignore[return-value]


def account(request: HttpRequest) -> HttpResponse:
    return HttpResponse(REACHED)


urlpatterns = [django_path("account", account), django_path("account/x", account)]

APPS: dict[str, Callable[[], ASGIApp]] = {
    "starlette": starlette_app,
    "fastapi": fastapi_app,
    "litestar": litestar_app,
    "quart": quart_app,
    "django": django_app,
}


@pytest.fixture(autouse=True, scope="module")
def _django_urls() -> Iterator[None]:
    django_app()
    with override_settings(ROOT_URLCONF=__name__):
        yield


async def ask(app: ASGIApp, path: str, root_path: str) -> Answer:
    scope = {**scope_of("http", "/", root_path=root_path), "path": path, "raw_path": path.encode("latin-1", "replace")}
    return await answered_in_full(app, scope)


def reached(answer: Answer) -> bool:
    return REACHED.encode() in answer.body


def protected(app: ASGIApp) -> ASGIApp:
    return SessionMiddleware(app, settings=Settings(secret_key=SECRET, protect=PROTECT, exempt="*"))


ODD = ["/account\n", "//account", "/account/", "/account//", "///account//x", "account", "/account/x\n", "/./account", "/account;a=1"]
PIECES = ["?", "#", "http:", "/", "account", "x", "\n", "//", ".", "..", ";a=1", "%2f", "%0a", "\\", "\x00", "shop", "\t", " "]
ROOTS = ["", "/shop", "/shop/", "/"]
PATHS = tuples(lists(sampled_from(PIECES), max_size=6), integers(0, 6)).map(lambda drawn: _with_account(*drawn))


def _with_account(pieces: list[str], at: int) -> str:
    return "".join([*pieces[:at], "/account", *pieces[at:]])


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # Quart and Django run on nothing else
@pytest.mark.parametrize("framework", APPS)
async def test_each_router_takes_odd_spellings_for_a_handlers_path_and_none_passes(framework: str, anyio_backend: str) -> None:
    bare, guarded = APPS[framework](), protected(APPS[framework]())
    taken = {(path, root) for path in ODD for root in ROOTS if reached(await ask(bare, path, root))}
    assert reached(await ask(bare, "/account", ""))
    assert taken or framework == "django"
    for path in [*ODD, "/account", "/shop/account", "/shop//account", "/shopaccount", "/x/shop/account"]:
        for root in ROOTS:
            assert not reached(await ask(guarded, path, root)), (path, root)


@pytest.mark.parametrize("framework", APPS)
def test_no_spelling_at_all_passes(framework: str) -> None:
    app = APPS[framework]()
    guarded = protected(app)

    async def stays_outside(path: str, root_path: str) -> None:
        assert not reached(await ask(guarded, path, root_path)), (path, root_path)

    @given(PATHS, sampled_from(ROOTS))
    @example("/account", "")
    def holds(path: str, root_path: str) -> None:
        anyio.run(stays_outside, path, root_path)

    holds()
