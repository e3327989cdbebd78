"""Retries, waits, time-outs and tokens; what goes wrong is explained in one sentence."""

from __future__ import annotations

import errno
import importlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import hf_raise_for_status

from adaptertools import hub
from adaptertools.errors import AdapterToolsError, HubError, NotFound
from adaptertools.hub import client
from adaptertools.version import VERSION

httpx = importlib.import_module(errors.HTTPError.__module__.split(".")[0])  # httpx, or httpx2
TOKEN = "hf_" + "aB3dE5gH" * 4
URL = "http://127.0.0.1:9/api/models/user/repo"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(client.time, "sleep", found.append)
    monkeypatch.setattr(client.random, "uniform", lambda low, high: 1.0)
    return found


@pytest.fixture
def _xet() -> Iterator[None]:
    client.api()
    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = False
    yield
    constants.HF_HUB_DISABLE_XET = before


def answer(code: int, url: str = URL, *, token: str = "", **headers: str) -> Exception:
    """Make the error that huggingface_hub raises for an answer."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"authorization": f"Bearer {token}"} if token else {}
    response = httpx.Response(code, headers=told, request=httpx.Request("GET", url, headers=sent))
    try:
        hf_raise_for_status(response)
    except Exception as error:
        return error
    raise AssertionError(code)


def lost(kind: str) -> Exception:
    error: Exception = getattr(httpx, kind)("it broke", request=httpx.Request("GET", URL))
    return error


def failing(*failures: Exception) -> Callable[[], str]:
    left = list(failures)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


DATE = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
AGAIN = {
    "busy": ([answer(503)], [0.5]),
    "twice": ([answer(502), answer(504)], [0.5, 1.0]),
    "told when": ([answer(503, Retry_After="3")], [3.0]),
    "told by date": ([answer(429, Retry_After=DATE)], [0.0]),
    "told nonsense": ([answer(503, Retry_After="soon")], [0.5]),
    "the limit": ([answer(429, RateLimit='"api";r=0;t=7')], [7.0]),
    "cut": ([lost("ReadError"), lost("RemoteProtocolError"), lost("ReadTimeout")], [0.5, 1.0, 2.0]),
    "no way, once": ([lost("ConnectError")], [0.5]),
}


@pytest.mark.parametrize("case", AGAIN)
def test_tried_again(case: str, waits: list[float]) -> None:
    failures, expected = AGAIN[case]
    assert client.attempt(failing(*failures), "user/repo") == "done"
    assert waits == expected


GIVEN_UP: dict[str, tuple[list[Exception], int]] = {
    "not there": ([answer(404)], 0),
    "forbidden": ([answer(403)], 0),
    "somebody was faster": ([answer(412)], 0),
    "wait for an hour": ([answer(503, Retry_After="3600")], 0),
    "always busy": ([answer(503)] * 9, client.TRIES - 1),
    "no way": ([lost("ConnectError")] * 9, 1),
    "no JSON": ([json.JSONDecodeError("x", "y", 0)], 0),
    "our own": ([HubError("It is odd.")], 0),
}


@pytest.mark.parametrize("case", GIVEN_UP)
def test_given_up(case: str, waits: list[float]) -> None:
    failures, count = GIVEN_UP[case]
    with pytest.raises(AdapterToolsError) as caught:
        client.attempt(failing(*failures), "user/repo")
    assert len(waits) == count
    assert caught.value is failures[0] or caught.value.__cause__ in failures


SAID: dict[str, tuple[Exception, type[Exception], str]] = {
    "repository": (answer(404, X_Error_Code="RepoNotFound"), NotFound, "no such repository"),
    "stranger": (answer(401), NotFound, "`hf auth login` if it is yours"),
    "bare 401, with a token": (answer(401, token=TOKEN), NotFound, "the token in use cannot see"),
    "revision": (answer(404, X_Error_Code="RevisionNotFound"), NotFound, "no such branch"),
    "file": (answer(404, X_Error_Code="EntryNotFound"), NotFound, "no such file"),
    "gated": (answer(403, X_Error_Code="GatedRepo"), HubError, "at http://127.0.0.1:9/user/repo."),
    "token": (
        answer(401, token=TOKEN, X_Error_Message="Invalid credentials in Authorization header"),
        HubError, "`hf auth login`",
    ),
    "read only": (answer(403, X_Error_Message="no write access"), HubError, "no write access"),
    "race": (answer(412), HubError, "somebody else committed"),
    "limit": (answer(429), HubError, "`hf auth login` raises the limit"),
    "an hour": (answer(503, Retry_After="3600"), HubError, "asks to wait for 3600 s"),
    "refused": (lost("ConnectError"), HubError, "cannot be reached"),
    "stalled": (lost("ReadTimeout"), HubError, "broke or stalled"),
    "JSON": (json.JSONDecodeError("x", "y", 0), HubError, "no JSON"),
    "offline": (errors.OfflineModeIsEnabled("x"), HubError, "HF_HUB_OFFLINE"),
    "name": (errors.HFValidationError("x"), NotFound, "no repository can have this name"),
    "full": (OSError(errno.ENOSPC, "No space left on device", "/x"), HubError, "no space left"),
    "other": (RuntimeError("odd"), HubError, "RuntimeError: odd"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_explained(case: str) -> None:
    error, kind, words = SAID[case]
    said = hub.explain(error, "user/repo@main")
    assert type(said) is kind
    assert str(said).startswith("user/repo@main")
    assert words in str(said)
    assert str(said).isprintable()
    assert TOKEN not in str(said)


def test_the_cause_is_explained_and_not_its_wrapper() -> None:
    wrapper = errors.LocalEntryNotFoundError("Check your connection.")
    wrapper.__cause__ = answer(503)
    assert "answered 503" in str(hub.explain(wrapper, "x"))
    assert hub.status(wrapper.__cause__) == 503
    assert hub.status(wrapper) is None


def test_no_secret_is_said() -> None:
    url = "https://cdn.example/a?X-Signature=abc&Policy=def"
    text = f"Bearer {TOKEN} {TOKEN} {url} https://user:pass@proxy.example/ \x1b[2J"
    said = str(hub.explain(RuntimeError(text), "x"))
    assert not [part for part in (TOKEN, "abc", "def", "pass", "\x1b") if part in said]
    assert "https://cdn.example/a?…" in said


@pytest.mark.usefixtures("_xet")
def test_xet_is_given_up_once() -> None:
    assert client.attempt(failing(ConnectionError("xet-write-token 404")), "x") == "done"
    assert constants.HF_HUB_DISABLE_XET
    with pytest.raises(HubError):
        client.attempt(failing(ConnectionError("down")), "x")


@pytest.mark.usefixtures("_xet")
@pytest.mark.parametrize("error", [errors.OfflineModeIsEnabled("x"), answer(404), ValueError("x")])
def test_xet_is_not_to_blame(error: Exception) -> None:
    with pytest.raises(AdapterToolsError):
        client.attempt(failing(error), "x")
    assert not constants.HF_HUB_DISABLE_XET


@pytest.mark.parametrize(("method", "read"), [("GET", client.TIMEOUT), ("POST", client.SLOW)])
def test_every_request_has_a_time_out(method: str, read: float) -> None:
    (hook,) = [h for h in client.session().event_hooks["request"] if h is client._limit]
    request: Any = client.session().build_request(method, URL)
    hook(request)
    assert request.extensions["timeout"]["read"] == read
    own: Any = client.session().build_request(method, URL, timeout=3.0)
    hook(own)
    assert own.extensions["timeout"]["read"] == 3.0


def test_requests_say_who_asks() -> None:
    with client.signed(TOKEN):
        assert client.headers()["authorization"] == f"Bearer {TOKEN}"
        assert client.api().token == TOKEN
        with client.signed(None):
            assert client.token() == TOKEN
    assert client.token() is None
    assert client.headers()["user-agent"].startswith(f"adaptertools/{VERSION}")
