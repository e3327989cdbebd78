"""`adaptertools upload`: what a person sees, on which stream."""

from collections.abc import Iterator, Mapping

import pytest

from tests.checks import tiny
from tests.hub_server import Hub
from tests.hub_server_clients import Done, fan

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
JOBS: Mapping[str, list[str]] = {
    "plain": [], "quiet": ["-q"], "pull": ["--create-pr"], "dry": ["--dry-run"],
    "dry-quiet": ["--dry-run", "-q"], "here": [], "private": ["--private"],
    "others": ["--delete-others"], "skipped": ["--no-validate"], "moved": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, dict[str, Done]]]:
    home = tmp_path_factory.mktemp("cli")
    mine = tiny.adapter(home / "mine")
    (mine / "optimizer.pt").write_bytes(b"")
    with Hub() as hub:
        for name in ("pull", "others", "moved"):
            hub.add(f"user/{name}", {"old.txt": b"", ".gitattributes": b""})
        hub.move("user/moved", "user/new-home")
        jobs = {name: ["upload", f"user/{name}", mine, *how] for name, how in JOBS.items()}
        jobs["here"] = ["upload", "user/here"]  # the folder it is started in holds none
        yield hub, fan(hub, home, jobs)


def test_what_is_seen(done: tuple[Hub, dict[str, Done]]) -> None:
    hub, told = done
    plan = told["plain"].err.splitlines()
    url = f"{hub.endpoint}/user/plain/commit/{hub.repo('user/plain').head.id}"
    assert told["plain"].out.splitlines() == [
        f"3 files, 2.61 kB, in one commit, read back and found right: {url}"
    ]
    assert plan[0] == f"user/plain, a new repository: adapter of {tiny.BASE}, 2.61 kB to send"
    assert plan[1].split()[:2] == ["new", CARD]
    assert "mended: tags: adaptertools, the table of the adapter" in plan[1]
    assert "  left out  optimizer.pt: the training wrote it for itself" in plan
    assert told["dry"].out.splitlines() == [line.replace("plain", "dry") for line in plan]
    assert told["dry"].err == ""
    assert told["dry-quiet"].out.splitlines()[1:] == plan[1:]


def test_quiet_is_the_address(done: tuple[Hub, dict[str, Done]]) -> None:
    hub, told = done
    head = hub.repo("user/quiet").head.id
    assert (told["quiet"].out, told["quiet"].err) == (
        f"{hub.endpoint}/user/quiet/commit/{head}\n", ""
    )  # fmt: skip


def test_words_for_what_was_asked(done: tuple[Hub, dict[str, Done]]) -> None:
    hub, told = done
    assert "in a pull request" in told["pull"].out
    assert told["pull"].out.endswith(f"{hub.endpoint}/user/pull/discussions/1\n")
    assert "a new private repository" in told["private"].err
    assert "  delete    old.txt" in told["others"].err.splitlines()
    assert "  skipped   validation: --no-validate" in told["skipped"].err.splitlines()
    assert "user/moved is called user/new-home now" in told["moved"].err
    assert WEIGHTS in hub.repo("user/new-home").all()


def test_a_folder_without_an_adapter(done: tuple[Hub, dict[str, Done]]) -> None:
    here = done[1]["here"]
    assert (here.code, here.out) == (1, "")
    assert here.err.startswith("error: . holds no adapter itself; mine in it does. Give mine.")
