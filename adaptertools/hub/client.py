"""One way to talk to the Hub: our name on it, a time-out on every request, bounded retries."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from adaptertools.errors import AdapterToolsError
from adaptertools.hub.faults import explain, status
from adaptertools.version import VERSION

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

TRIES = 4
TIMEOUT = 10.0  # seconds, for questions; they are small
SLOW = 120.0  # for answers to uploads and commits: the Hub hashes before it says anything
LONGEST = 60.0  # what a server may ask to wait before it is asked again
_RETRIED = (408, 429, 500, 502, 503, 504)
_OFFICIAL = "https://huggingface.co"

_token: ContextVar[str | None] = ContextVar("token", default=None)
_ready = False
_lock = threading.Lock()


@contextmanager
def signed(token: str | None) -> Iterator[None]:
    """Use a token, as `--token` gives it, for everything inside; None leaves things as they are."""
    if token is None:
        yield
        return
    before = _token.set(token)
    try:
        yield
    finally:
        _token.reset(before)


def token() -> str | None:
    """Give the token of `signed`; None means the one that `hf auth login` stored."""
    return _token.get()


def api() -> HfApi:
    """Give the client: our name and version, the token in use, time-outs on every request."""
    _prepare()
    from huggingface_hub import HfApi

    return HfApi(token=_token.get(), library_name="adaptertools", library_version=VERSION)


def session() -> Any:
    """Give the connection pool that huggingface_hub uses too."""
    _prepare()
    from huggingface_hub.utils import get_session

    return get_session()


def headers() -> dict[str, str]:
    """Give what a request of ours carries: our name, and the token in use. Never show it."""
    from huggingface_hub.utils import build_hf_headers

    made = build_hf_headers(
        token=_token.get(), library_name="adaptertools", library_version=VERSION
    )
    return {str(name): str(value) for name, value in made.items()}


def endpoint() -> str:
    """Give the address of the Hub in use."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids requests."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def attempt(call: Callable[[], T], what: str, *, tries: int = TRIES) -> T:
    """Call the Hub, again where that can help, and explain what goes wrong.

    Busy and broken answers are asked for again, after the time that the server names; so is a
    transfer that failed by xet, once, without it. `what` names the thing in the error text.

    Raises NotFound and HubError, as `explain` has them; their cause is huggingface_hub's error.
    """
    _prepare()
    done = 0
    while True:
        try:
            return call()
        except AdapterToolsError:
            raise
        except Exception as error:
            done += 1
            if _without_xet(error):
                continue
            wait = _wait(error, done) if done < _tries(error, tries) else None
            if wait is None:
                raise explain(error, what) from error
            time.sleep(wait)


def _tries(error: Exception, tries: int) -> int:
    """Ask a server that cannot be reached at all only twice: nobody likes to wait for nothing."""
    return min(tries, 2) if type(error).__name__ in ("ConnectError", "ConnectTimeout") else tries


def _wait(error: Exception, done: int) -> float | None:
    """Say how long to wait before the next attempt; None where another will not help."""
    code = status(error)
    if code is None:
        return _pause(done) if _transport(error) else None
    if code not in _RETRIED:
        return None
    asked = _asked(dict(error.response.headers))  # type: ignore[attr-defined]
    if asked is None:
        return _pause(done)
    return asked if asked <= LONGEST else None


def _pause(done: int) -> float:
    # Some jitter, so that many clients that failed together do not come back together.
    return float(0.5 * 2 ** (done - 1) * random.uniform(0.8, 1.2))


def _asked(headers: dict[str, str]) -> float | None:
    """Read Retry-After, in seconds or as a date, or the reset of a rate limit."""
    told = {name.lower(): value.strip() for name, value in headers.items()}
    after = told.get("retry-after", "")
    if after.isdecimal():
        return float(after)
    if after:
        try:
            left = parsedate_to_datetime(after) - datetime.now(UTC)
        except (ValueError, TypeError):
            return None
        return max(0.0, left.total_seconds())
    parts = dict(part.strip().partition("=")[::2] for part in told.get("ratelimit", "").split(";"))
    return float(parts["t"]) if parts.get("r") == "0" and parts.get("t", "").isdecimal() else None


def _transport(error: Exception) -> bool:
    """Tell whether a connection failed, as httpx and httpx2 report it."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__) and (
        type(error).__name__ not in ("UnsupportedProtocol", "LocalProtocolError")
    )


def _without_xet(error: Exception) -> bool:
    """Turn xet off after a failed transfer; tell whether that was done and another try may help.

    Hubs without xet answer 404 to its token request, and a dead xet server never falls back:
    https://github.com/huggingface/huggingface_hub/issues/4786
    """
    from huggingface_hub import constants, errors

    kinds = (ConnectionError, RuntimeError, getattr(errors, "XetDownloadError", RuntimeError))
    if constants.HF_HUB_DISABLE_XET or not isinstance(error, kinds) or status(error) is not None:
        return False
    if isinstance(error, errors.OfflineModeIsEnabled) or _transport(error):
        return False
    constants.HF_HUB_DISABLE_XET = True
    return True


def _prepare() -> None:
    """Set time-outs and xet's default, once for each process."""
    global _ready
    with _lock:
        if _ready:
            return
        from huggingface_hub import constants, set_client_factory
        from huggingface_hub.utils import _http

        made = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)
        set_client_factory(lambda: _patient(made()))
        if "HF_HUB_DISABLE_XET" not in os.environ and constants.ENDPOINT != _OFFICIAL:
            constants.HF_HUB_DISABLE_XET = True
        _ready = True


def _patient(client: Any) -> Any:
    """Let no request of a client wait for ever."""
    client.event_hooks["request"].append(_limit)
    return client


def _limit(request: Any) -> None:
    limits = request.extensions.get("timeout") or {}
    if all(limit is None for limit in limits.values()):
        long = TIMEOUT if request.method in ("GET", "HEAD") else SLOW
        request.extensions["timeout"] = {
            "connect": TIMEOUT, "pool": SLOW, "write": SLOW, "read": long
        }  # fmt: skip
