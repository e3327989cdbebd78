"""Pieces of remote files: exactly those bytes, or an error, and never much more than them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from adaptertools.errors import HubError
from adaptertools.hub import client, ranges
from adaptertools.hub.ranges import HubPieces
from adaptertools.hub.repo import RemoteFile, Repo
from tests.hub_server import Hub

DATA = random.Random(0).randbytes(3_000_000)
NAME = "adapter_model.safetensors"
LARGE = DATA * 8  # more than sockets hold


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.add(
            "user/repo", {NAME: DATA, "large": LARGE, "small.json": DATA[:900], "gone.bin": b"x"}
        )
        yield made
        assert made.leaks == []


@pytest.fixture
def pieces(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> HubPieces:
    hub.heal()
    hub.requests.clear()
    monkeypatch.setattr(client, "_pause", lambda done: 0.0)
    return opened(hub, NAME, len(DATA))


def opened(hub: Hub, name: str, size: int | None) -> HubPieces:
    commit = hub.repo("user/repo").head.id
    made = HubPieces(
        Repo(id="user/repo", commit=commit, files={}), RemoteFile(name=name, size=size)
    )
    made._home = made._at = f"{hub.endpoint}/user/repo/resolve/{commit}/{name}"
    return made


SPANS = [(0, 1), (0, 16_384), (16_384, 20_001), (2_999_990, 3_000_000), (2_999_990, 9_000_000)]


@pytest.mark.parametrize("span", SPANS)
def test_exactly_those_bytes(span: tuple[int, int], pieces: HubPieces, hub: Hub) -> None:
    start, stop = span
    assert pieces.read(start, stop) == DATA[start:stop]
    wanted = min(stop, len(DATA)) - start
    until = time.monotonic() + 5  # the server counts when it has sent
    while (sent := sum(one.bytes_sent for one in hub.requests)) < wanted:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert sent == wanted


def test_nothing_is_asked_for_nothing(pieces: HubPieces, hub: Hub) -> None:
    assert pieces.read(5, 5) == pieces.read(9_000_000, 9_000_001) == b""
    assert hub.requests == []


def test_the_second_piece_needs_no_redirect(pieces: HubPieces, hub: Hub) -> None:
    pieces.read(0, 10)
    pieces.read(10, 20)
    assert [(one.origin, one.status) for one in hub.requests] == [
        ("hub", 302), ("cdn", 206), ("cdn", 206),
    ]  # fmt: skip


def test_an_address_that_expired_is_asked_for_again(pieces: HubPieces, hub: Hub) -> None:
    pieces.read(0, 10)
    hub.fault("403", path="/cdn/*", times=1)
    assert pieces.read(10, 20) == DATA[10:20]


def test_a_server_that_ignores_ranges_is_cut_off(pieces: HubPieces, hub: Hub) -> None:
    hub.fault("ignore-range")
    pieces = opened(hub, "large", len(LARGE))
    assert pieces.read(0, 16_384) == DATA[:16_384]
    assert pieces.read(16_384, 40_000) == DATA[16_384:40_000]
    with pytest.raises(HubError, match="sends whole files only, and byte 2000000 of it is wanted"):
        pieces.read(2_000_000, 2_000_010)
    assert sum(one.bytes_sent for one in hub.requests if one.status == 200) < 3 * len(LARGE)


ONCE = ["503", "429", "reset", "drop"]


@pytest.mark.parametrize("fault", ONCE)
def test_what_passes_is_tried_again(fault: str, pieces: HubPieces, hub: Hub) -> None:
    hub.fault(fault, path="/cdn/*", times=1, after=None if fault.isdigit() else 500)
    assert pieces.read(0, 5_000) == DATA[:5_000]


ODD = {
    "bare": "and '' came, twice",
    "truncate": "the server has 1500000 bytes of it, and the listing says 3000000",
    "long": "and the listing says 3000000, twice",
    "404": "to which the Hub points, answered 404",
    "503": "answered 503: ",
}


@pytest.mark.parametrize("fault", ODD)
def test_what_stays_is_said(fault: str, pieces: HubPieces, hub: Hub) -> None:
    hub.fault(fault, path="/cdn/*")
    with pytest.raises((HubError, LookupError), match=ODD[fault]) as caught:
        pieces.read(0, 5_000)
    assert "signature" not in str(caught.value)


def test_a_server_that_compresses_is_refused(
    pieces: HubPieces, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer:
        headers = {"content-encoding": "gzip"}  # noqa: RUF012
        status_code = 206

    with pytest.raises(HubError, match="compresses"):
        pieces._piece(Answer(), 0, 10)


def test_a_size_must_be_known(hub: Hub) -> None:
    with pytest.raises(HubError, match="tells no size"):
        opened(hub, NAME, None)


def test_a_page_in_place_of_a_file(pieces: HubPieces, hub: Hub) -> None:
    hub.fault("html", path=NAME)
    with pytest.raises(HubError, match="the server sends 71 bytes, and the listing says 3000000"):
        pieces.read(0, 5_000)


def test_only_the_beginning_is_passed_over() -> None:
    assert ranges.SKIPPED <= 1_000_000
