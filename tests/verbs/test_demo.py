"""demo: the whole street, offline."""

import socket
from pathlib import Path

import pytest

import adaptertools as at
from adaptertools.errors import Unsafe


@pytest.mark.slow
def test_the_merged_model_answers_as_the_adapter_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object, **named: object) -> None:
        raise AssertionError("the demo used the network")

    lines: list[str] = []
    monkeypatch.setattr(socket.socket, "connect", never)
    demo = at.demo(tmp_path / "demo", progress=lines.append)
    first = demo.prompts[0]
    assert demo.ok
    assert first.merged == first.adapter == "better than ugly."
    assert first.base != first.merged
    assert demo.logit_gap < 0.2
    assert len(lines) == len(demo.seconds)
    assert at.verify(demo.merged).ok


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(Unsafe, match="overwrites nothing"):
        at.demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
