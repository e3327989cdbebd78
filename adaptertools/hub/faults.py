"""What the Hub and the network answer when things go wrong, as one sentence that helps."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from adaptertools.errors import AdapterToolsError, HubError, NotFound, shown

_TOKENS = re.compile(r"\b(?:hf|api)_[A-Za-z0-9_]{6,}|(?i:bearer)\s+[^\s'\"]+")
_LOGIN = re.compile(r"(\w://)[^/@\s'\"]*@")
_QUERY = re.compile(r"(https?://[^\s?'\"<>]*)\?[^\s'\"<>]*")
_REPO = re.compile(r"/api/models/([^/?]+/[^/?]+)|/([^/?]+/[^/?]+)/(?:resolve|raw)/")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def status(error: BaseException) -> int | None:
    """Give the HTTP status of an error of huggingface_hub; None where no answer came."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def explain(error: BaseException, what: str) -> AdapterToolsError:
    """Map an error of the network, of JSON or of huggingface_hub to NotFound or HubError.

    `what` names what was asked for: `user/repo@main`. No token or signed address gets into a text.
    """
    if isinstance(error, AdapterToolsError):
        return error
    # A wrapper such as LocalEntryNotFoundError says "check your connection" whatever happened.
    chain, what = list(_chain(error)), clean(what)
    answered = next((each for each in chain if status(each) is not None), None)
    if answered is not None:
        return _answered(answered, what)
    for each in reversed(chain):
        if found := _silent(each, what):
            return found
    return HubError(f"{what}: {type(error).__name__}: {clean(error) or 'no reason given'}.")


def gated(error: BaseException | None) -> bool:
    """Tell whether an answer says that the terms of a repository are to be accepted first."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    return bool(headers.get("X-Error-Code") == "GatedRepo")


def clean(text: object) -> str:
    """Write a stranger's message on one line, without tokens and signed addresses."""
    line = _LOGIN.sub(r"\1", " ".join(str(text).split()))
    return shown(_QUERY.sub(r"\1?…", _TOKENS.sub("…", line)), 300).rstrip(".")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _answered(error: Any, what: str) -> AdapterToolsError:
    """Explain an answer by its status and error code, whatever class it came as."""
    code, response = error.response.status_code, error.response
    kind, said = (response.headers.get(f"X-Error-{name}", "") for name in ("Code", "Message"))
    signed = "authorization" in response.request.headers
    if gated(error):
        return HubError(
            f"{what} is gated: its owner wants its terms accepted first, at {_page(response)}. "
            f"Accept them there{'' if signed else ', `hf auth login`'}, and try again."
        )
    if code == 401 and signed and "credential" in said.lower():
        return HubError(
            f"{what}: the Hub does not know the token that was sent. `hf auth login` with one from "
            "its settings page, or `hf auth logout` for what is public."
        )
    if code < 500 and not kind and (place := _elsewhere(response)):
        return HubError(
            f"{what}: the storage at {place}, to which the Hub points, answered {code}. Try again; "
            "if it stays so, the file is lost there or its address has run out."
        )
    if code == 404 and "/info/lfs/" in str(response.request.url):
        return HubError(
            f"{what}: the server has not got what was sent to it. Try again; a proxy or a login "
            "page may stand between."
        )
    if code in (401, 404):
        return _missing(kind, signed, what)
    detail = clean(said or getattr(error, "server_message", None) or _short(error))
    if wait := clean(response.headers.get("Retry-After", "")):
        detail += f"; it asks to wait for {wait}{' s' if wait.isdecimal() else ''}"
    return HubError(f"{what}: {_refused(code, detail)}")


def _missing(kind: str, signed: bool, what: str) -> NotFound:
    if kind == "RevisionNotFound":
        return NotFound(f"{what}: the repository has no such branch, tag or commit.")
    if kind == "EntryNotFound":
        return NotFound(f"{what}: the repository has no such file at this revision.")
    who = "the token in use cannot see it" if signed else "it is private"
    help_ = "" if signed else " `hf auth login` if it is yours."
    return NotFound(f"{what}: no such repository or revision on the Hub, or {who}.{help_}")


# Status -> what is said of it.
_REFUSED = {
    400: "the Hub takes the request for wrong: {detail}.",
    403: (
        "the Hub does not allow it ({detail}). See `hf auth whoami`; `hf auth login` with a token "
        "that has the right."
    ),
    409: "the Hub says that it is there already: {detail}.",
    412: (
        "somebody else committed to it meanwhile, and nothing was changed. Look at their commit, "
        "then try again."
    ),
    429: (
        "the Hub is asked too often from here ({detail}). Wait some minutes; `hf auth login` "
        "raises the limit."
    ),
}
_OTHER = "the server answered {code}: {detail}. Try later; nothing is wrong here."
_STRANGE = "the server answered {code}: {detail}."


def _refused(code: int, detail: str) -> str:
    text = _REFUSED.get(code) or (_OTHER if code >= 500 else _STRANGE)
    return text.format(code=code, detail=detail or "no reason given")


def _short(error: Any) -> str:
    """Take what the server says in its JSON; never a page of HTML."""
    try:
        said = json.loads(error.response.text)["error"]
    except Exception:  # streamed and closed, no JSON, another shape: the status must do
        return str(error.response.reason_phrase)
    return str(said)


def _page(response: Any) -> str:
    url = response.request.url
    match = _REPO.search(url.path)
    home = f"{url.scheme}://{url.netloc.decode()}"
    return f"{home}/{shown(match[1] or match[2])}" if match else home


def _elsewhere(response: Any) -> str:
    """Give the origin of an answer that did not come from a Hub; empty where it did."""
    url, home = response.request.url, urlsplit(_home())
    origin = f"{url.scheme}://{url.netloc.decode()}"
    ours = origin == f"{home.scheme}://{home.netloc}" or url.path.startswith("/api/")
    return "" if ours else shown(origin)


def _silent(error: BaseException, what: str) -> AdapterToolsError | None:
    """Explain an error that no answer came with; None where this one says nothing."""
    names = {kind.__name__ for kind in type(error).__mro__}
    detail = clean(error) or type(error).__name__
    if "OfflineModeIsEnabled" in names:
        return HubError(
            f"{what} is not all in the cache, and HF_HUB_OFFLINE forbids to ask the Hub for it. "
            "Unset it, or `hf download` the repository while there is a network."
        )
    if {"ConnectError", "ConnectTimeout", "ProxyError"} & names:
        return HubError(
            f"{what}: the Hub at {_home()} cannot be reached ({detail}). Look at the network, the "
            "proxy and HF_ENDPOINT; with HF_HUB_OFFLINE=1 the cache answers."
        )
    if "TransportError" in names or isinstance(error, ConnectionError):
        return HubError(
            f"{what}: the connection to {_home()} broke or stalled, more than once ({detail}). "
            "Try again."
        )
    if isinstance(error, json.JSONDecodeError):
        return HubError(
            f"{what}: {_home()} answered with something that is no JSON. A proxy or a login page "
            "may stand between; look at HF_ENDPOINT and the network."
        )
    if "FileMetadataError" in names:
        return HubError(
            f"{what}: {_home()} does not say what a Hub says of a file: its commit, digest and "
            "size. A proxy or a login page may stand between; look at HF_ENDPOINT."
        )
    if "HFValidationError" in names:
        return NotFound(f"{what}: no repository can have this name ({detail}). Give user/repo.")
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f" at {shown(error.filename)}" if error.filename else ""
        return HubError(f"{what}: no space left{where} ({error.strerror}). Free some; start again.")
    if "LocalEntryNotFoundError" in names or "RevisionResolutionError" in names:
        return HubError(f"{what} is not in the cache, and the Hub could not be asked for it.")
    if isinstance(error, OSError) and error.errno and error.strerror:
        where = f" {shown(error.filename)}:" if error.filename else ""
        return HubError(f"{what}:{where} {error.strerror}.")
    return None


def _home() -> str:
    from huggingface_hub import constants

    return clean(constants.ENDPOINT)
