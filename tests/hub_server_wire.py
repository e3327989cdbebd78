"""The loopback hub's HTTP: reads a request, lets faults strike, answers, keeps a record."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_server_faults import CUTS, PAGE, STORED, Fault, damaged

if TYPE_CHECKING:
    from tests.hub_server import Hub


@dataclass
class Request:
    """The record of one request."""

    method: str
    path: str
    status: int
    bytes_sent: int
    origin: str
    authorization: bool
    range: str | None = None
    agent: str = ""
    client: str = ""


@dataclass
class Call:
    """A request as the routes see it."""

    hub: Hub
    origin: str
    method: str
    target: str
    headers: Message
    body: bytes = b""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.target).path.strip("/").split("/")]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def client(self) -> str:
        """Give the mark of a token, which stands behind a dash and tells clients apart."""
        return self.headers.get("Authorization", "").partition("-")[2]

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in ("true", "1")

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass
class Answer:
    """What goes back. `stored`: the body is a file's and may be asked for in ranges."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stored: bool = False


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        told = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer = as_json({"error": message}, status, **told, **headers)


class Gone(Exception):
    """The client or the server went away in the middle."""


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    body = json.dumps(value, default=str).encode()
    return Answer(status, body, {"Content-Type": "application/json; charset=utf-8", **headers})


def ranged(answer: Answer, wanted: str, shift: bool) -> Answer:
    """Give the asked part of a file's answer, one byte off where the fault says so."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip())
    total = len(answer.body)
    if not match or match.groups() == ("", ""):
        return answer
    first, last = match.groups()
    start = int(first) if first else max(0, total - int(last))
    end = min(int(last), total - 1) if first and last else total - 1
    if start > end:
        return Answer(416, b"", {"Content-Range": f"bytes */{total}"})
    body = answer.body[start : end + 1]
    if shift:
        away = -1 if start else 1
        body = (answer.body[start + away : end + away + 1] + b"\0")[: end + 1 - start]
    told = {"Content-Range": f"bytes {start}-{end}/{total}", "Accept-Ranges": "bytes"}
    return Answer(206, body, answer.headers | told, stored=True)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub
    origin: str

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def serve(self) -> None:
        call = Call(self.hub, self.origin, self.command, self.path, self.headers)
        record = Request(
            call.method, self.path, 0, 0, self.origin, "Authorization" in self.headers,
            self.headers.get("Range"), self.headers.get("User-Agent", ""), call.client,
        )  # fmt: skip
        self.hub.requests.append(record)
        self.hub.watch(record)
        try:
            self.answer(call, record)
        except (Gone, OSError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815

    def answer(self, call: Call, record: Request) -> None:
        early = self.strike(call, early=True)
        for fault in early:
            if fault.name in CUTS:
                self.read_some(fault.after or 0)
                self.cut(fault)
        call.body = self.read_body()
        answer = replaced(early) or self.hub.route(call)
        late = self.strike(call, early=False, answer=answer)
        answer = replaced(late) or self.bent(call, answer, late)
        if any(fault.name == "lost" for fault in late):
            self.cut(Fault("drop"))
        self.send(answer, record, late)

    def strike(self, call: Call, early: bool, answer: Answer | None = None) -> list[Fault]:
        has_body = "Content-Length" in call.headers or "Transfer-Encoding" in call.headers
        fits = "" if answer is None else "other"
        if answer and answer.stored:
            fits = "range" if call.headers.get("Range") else "file"
        asked = (call.method, unquote(call.target), call.origin, call.client)
        return self.hub.faults.take(asked, early, has_body, fits)

    def bent(self, call: Call, answer: Answer, late: list[Fault]) -> Answer:
        """Give the answer with stored and header faults applied and the range cut out."""
        names = {fault.name for fault in late}
        for fault in late:
            if fault.name in STORED:
                answer.body = damaged(answer.body, fault)
        if answer.stored and call.headers.get("Range") and "ignore-range" not in names:
            answer = ranged(answer, call.headers["Range"], "shift" in names)
        if "bare" in names:
            answer.headers = {k: v for k, v in answer.headers.items() if k == "Location"}
        if "etag" in names:
            lie = {"ETag": '"%s"' % ("0" * 40), "X-Linked-Etag": '"%s"' % ("0" * 64)}
            answer.headers |= {name: lie[name] for name in lie if name in answer.headers}
        if "unsized" in names:
            answer.headers.pop("X-Linked-Size", None)
        return answer

    def send(self, answer: Answer, record: Request, late: list[Fault]) -> None:
        record.status = answer.status
        by_name = {fault.name: fault for fault in late}
        size = len(answer.body) + (by_name["length"].by if "length" in by_name else 0)
        lines = [f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('',))[0]}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        if "unsized" in by_name or "length" in by_name:
            self.close_connection = True
            lines.append("Connection: close")
        if "unsized" not in by_name:
            lines.append(f"Content-Length: {size}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        body = b"" if self.command == "HEAD" else answer.body
        cut = next((f for f in late if f.name in CUTS and f.after is not None), None)
        if cut and len(body) > (cut.after or 0):
            body = body[: cut.after]
        self.wfile.write(head + body)
        record.bytes_sent = len(body)
        if cut and len(body) < len(answer.body):
            self.cut(cut)

    def cut(self, fault: Fault) -> None:
        """End the connection: with RST, with FIN, or after a long silence."""
        if fault.name == "stall":
            self.hub.closing.wait(fault.seconds)
        if fault.name == "reset":
            time.sleep(0.05)  # what was sent before shall arrive before the RST throws it away
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.connection.close()
        raise Gone

    def read_some(self, size: int) -> bytes:
        data = self.rfile.read(size) if size else b""
        if len(data) < size:
            raise Gone
        return data

    def read_body(self) -> bytes:
        """Give the whole body; Gone where the client stops before its end."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.read_some(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            chunks.append(self.read_some(size))
            self.rfile.readline()
        if not self.rfile.readline():
            raise Gone
        return b"".join(chunks)


def replaced(faults: list[Fault]) -> Answer | None:
    """Give the answer that a fault puts in the place of the true one."""
    for fault in faults:
        if fault.name.isdigit():
            wait = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            return Answer(int(fault.name), b"upstream is not well", wait)
        if fault.name == "html":
            return Answer(200, PAGE, {"Content-Type": "text/html"})
        if fault.name == "json":
            return Answer(200, b'{"id": "user/re', {"Content-Type": "application/json"})
    return None
