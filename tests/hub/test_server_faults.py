"""Every fault of the loopback hub does what its name says, where and as often as it was told."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.hub_server import TOKEN, Hub

DATA = bytes(range(256)) * 40
NAME = "adapter_model.safetensors"
JSON = b'{"peft_type": "LORA", "r": 8}'


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add("user/repo", {NAME: DATA, "adapter_config.json": JSON})
        yield hub


@pytest.fixture
def hub(served: Hub) -> Hub:
    served.heal()
    served.requests.clear()
    return served


def get(
    url: str, wanted: str = "", method: str = "GET", body: bytes | None = None, wait: float = 5
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Ask once, on a connection of its own."""
    place = urlsplit(url)
    line = http.client.HTTPConnection(place.hostname or "", place.port, timeout=wait)
    headers = {"Range": wanted} if wanted else {}
    if "/cdn" not in place.path:
        headers["Authorization"] = f"Bearer {TOKEN}"
    try:
        line.request(method, f"{place.path}?{place.query}", body, headers)
        answer = line.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        line.close()


def large(hub: Hub) -> str:
    return f"{hub.cdn}/user/repo/{hub.repo('user/repo').head.files[NAME].sha256}/{NAME}"


def small(hub: Hub) -> str:
    return f"{hub.endpoint}/api/resolve-cache/models/user/repo/main/adapter_config.json"


def test_nothing_goes_wrong_unasked(hub: Hub) -> None:
    assert get(large(hub))[:2] == (200, DATA)
    assert get(small(hub))[:2] == (200, JSON)
    for wanted, first, last in (
        ("5-9", 5, 9),
        ("10000-", 10000, 10239),
        ("-7", 10233, 10239),
        ("10000-99999", 10000, 10239),
    ):
        status, body, headers = get(large(hub), f"bytes={wanted}")
        assert (status, body) == (206, DATA[first : last + 1])
        assert headers["Content-Range"] == f"bytes {first}-{last}/10240"
    assert get(large(hub), "bytes=20000-")[0] == 416


@pytest.mark.parametrize("status", [403, 429, 500, 502, 503])
def test_statuses(hub: Hub, status: int) -> None:
    hub.fault(str(status), path=NAME, retry_after=2)
    told = get(large(hub))
    assert (told[0], told[2]["Retry-After"]) == (status, "2")
    assert get(small(hub))[0] == 200
    hub.heal()
    hub.fault(str(status))
    assert "Retry-After" not in get(small(hub))[2]


def test_damage_in_storage(hub: Hub) -> None:
    hub.fault("flip", at=7, times=1)
    body = get(large(hub))[1]
    assert [n for n in range(len(DATA)) if body[n] != DATA[n]] == [7]
    assert get(large(hub))[1] == DATA
    hub.fault("swap", path=NAME)
    body = get(large(hub))[1]
    assert len(body) == len(DATA)
    assert body != DATA
    assert get(large(hub), "bytes=0-9")[1] == body[:10]
    hub.heal()
    hub.fault("truncate", path="*adapter_*", after=9)
    assert get(small(hub))[1] == JSON[:9]
    hub.heal()
    hub.fault("long", by=3)
    assert get(large(hub))[1] == DATA + b"xxx"


def test_damage_on_the_way(hub: Hub) -> None:
    hub.fault("ignore-range", times=1)
    assert get(large(hub), "bytes=5-9")[:2] == (200, DATA)
    hub.fault("shift", times=2)
    status, body, headers = get(large(hub), "bytes=5-9")
    assert (status, body, headers["Content-Range"]) == (206, DATA[4:9], "bytes 5-9/10240")
    assert get(large(hub), "bytes=0-9")[1] == DATA[1:11]
    hub.heal()
    hub.fault("length", by=-5)
    assert get(large(hub))[1] == DATA[:-5]
    hub.heal()
    hub.fault("length", by=5)
    with pytest.raises(http.client.IncompleteRead):
        get(large(hub))


def test_sizes_left_out(hub: Hub) -> None:
    url = f"{hub.endpoint}/user/repo/resolve/main/{NAME}"
    headers = get(url, method="HEAD")[2]
    assert (headers["X-Linked-Size"], len(headers["X-Repo-Commit"])) == ("10240", 40)
    hub.fault("unsized", method="HEAD")
    headers = get(url, method="HEAD")[2]
    assert "X-Linked-Size" not in headers
    assert "Content-Length" not in headers
    hub.heal()
    hub.fault("bare", method="HEAD")
    headers = get(url, method="HEAD")[2]
    assert {"ETag", "X-Linked-Etag", "X-Repo-Commit"}.isdisjoint(headers.keys())
    hub.heal()
    hub.fault("etag", method="HEAD")
    assert get(url, method="HEAD")[2]["X-Linked-Etag"] == '"%s"' % ("0" * 64)
    hub.heal()
    hub.fault("unsized", path=NAME)
    hub.fault("truncate", path=NAME, after=100)
    _, body, headers = get(large(hub))
    assert (body, headers["Content-Length"]) == (DATA[:100], None)


@pytest.mark.parametrize("after", [None, 0, 5000])
def test_cut_connections(hub: Hub, after: int | None) -> None:
    hub.fault("reset", path=NAME, after=after)
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        get(large(hub))
    hub.heal()
    hub.fault("drop", path=NAME, after=after)
    with pytest.raises((http.client.IncompleteRead, http.client.RemoteDisconnected)) as error:
        get(large(hub))
    if after:
        assert len(error.value.partial) == after
    hub.heal()
    hub.fault("stall", path=NAME, after=after, seconds=5)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        get(large(hub), wait=0.2)
    assert time.monotonic() - start < 2


def test_a_reset_is_a_reset(hub: Hub) -> None:
    hub.fault("reset", path=NAME, after=5000)
    got = bytearray()

    def collect(line: socket.socket) -> None:
        while chunk := line.recv(65536):
            got.extend(chunk)

    with socket.create_connection(urlsplit(hub.cdn).netloc.split(":")) as line:
        line.sendall(f"GET {urlsplit(large(hub)).path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            collect(line)
    assert got.partition(b"\r\n\r\n")[2] == DATA[:5000]


def test_other_answers_than_asked_for(hub: Hub) -> None:
    url = f"{hub.endpoint}/api/models/user/repo"
    hub.fault("html", path="/api/models")
    told = get(url)
    assert told[0] == 200
    assert b"<html>" in told[1]
    hub.heal()
    hub.fault("json", path="/api/models")
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(get(url)[1])


def test_limits(hub: Hub) -> None:
    hub.fault("503", path=NAME, skip=1, times=2)
    assert [get(large(hub))[0] for _ in range(4)] == [200, 503, 503, 200]
    hub.heal()
    hub.fault("503", origin="cdn")
    assert (get(large(hub))[0], get(small(hub))[0]) == (503, 200)
    hub.heal()
    hub.fault("503", method="POST")
    assert get(small(hub))[0] == 200
    assert get(f"{hub.endpoint}/api/validate-yaml", method="POST", body=b"{}")[0] == 503
    hub.heal()
    hub.fault("503")
    assert (get(small(hub))[0], get(small(hub), method="HEAD")[0]) == (503, 200)
    hub.heal()
    hub.fault("503", method="*")
    assert get(small(hub), method="HEAD")[0] == 503
    with pytest.raises(AssertionError):
        hub.fault("typo")


def test_done_before_or_not_done_at_all(hub: Hub) -> None:
    url, cut = f"{hub.endpoint}/api/repos/create", http.client.HTTPException

    def create(name: str) -> int:
        return get(url, method="POST", body=json.dumps({"name": name}).encode())[0]

    hub.fault("503", path="create", times=1)
    hub.fault("reset", path="create", times=1, after=5)
    assert create("a") == 503
    with pytest.raises((cut, ConnectionError)):
        create("b")
    hub.heal()
    hub.fault("lost", path="create", times=1)
    with pytest.raises(http.client.RemoteDisconnected):
        create("c")
    hub.heal()
    hub.fault("502", path="create", done=True)
    assert create("d") == 502
    assert {repo_id for _, repo_id in hub.repos} == {"user/repo", "user/c", "user/d"}


def test_half_a_request_is_no_request(hub: Hub) -> None:
    body = json.dumps({"name": "half"}).encode()
    with socket.create_connection(urlsplit(hub.endpoint).netloc.split(":")) as line:
        head = f"POST /api/repos/create HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        line.sendall(f"{head}Content-Length: {len(body) + 1}\r\n\r\n".encode() + body)
    time.sleep(0.2)
    assert ("models", "user/half") not in hub.repos


def test_xet_is_advertised_and_dead(hub: Hub) -> None:
    hub.xet = True
    url = f"{hub.endpoint}/user/repo/resolve/main/{NAME}"
    headers = get(url, method="HEAD")[2]
    assert headers["X-Xet-Hash"]
    token = headers["Link"].partition("<")[2].partition(">")[0]
    cas = get(token)[2]["X-Xet-Cas-Url"]
    with pytest.raises(ConnectionRefusedError):
        get(cas)
    write = f"{hub.endpoint}/api/models/user/repo/xet-write-token/main"
    assert get(write)[0] == 404
    hub.xet = False
    assert "X-Xet-Hash" not in get(url, method="HEAD")[2]
