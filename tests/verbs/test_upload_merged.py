"""Merged models are uploaded in shards, with a receipt and a card that name no place of here."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

import adaptertools as at
from adaptertools import schema
from tests.checks import tiny
from tests.hub_server import Hub
from tests.hub_server_clients import Done, fan

RECEIPT, CARD, CONFIG = "adaptertools.json", "README.md", "config.json"
GIVEN = ["--base", "org/base"]
OWN = "---\nbase_model_relation: merge\nlicense: mit\n---\nIt speaks in rhymes; see /data/x.\n"
SECRET = "hf_" + "aB3dE6gH9j" * 4
FETCH = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1]))"
EACH = """
import sys
from adaptertools.hub import commit
import adaptertools as at
commit._BIG = 100
at.upload(sys.argv[1], "user/big", base="org/base")
"""


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("model*.safetensors"))


def litter(folder: Path) -> None:
    (folder / "extra.safetensors").write_bytes(b"")
    (folder / "optimizer.pt").write_bytes(b"")
    (folder / "LICENSE").write_text("free")


def of_the_hub(folder: Path) -> None:
    receipt = json.loads((folder / RECEIPT).read_text())
    receipt["base"]["ref"] = "org/other@main"
    (folder / RECEIPT).write_text(json.dumps(receipt, indent=1) + "\n")


def rewrite(folder: Path) -> None:
    (folder / CARD).write_text(OWN)


def change(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "note": "mine"}))


def cut(folder: Path) -> None:
    shard = folder / shards(folder)[1]
    shard.write_bytes(shard.read_bytes()[:-1])


def lose(folder: Path) -> None:
    (folder / shards(folder)[1]).unlink()


def no_base(folder: Path) -> None:
    (folder / CARD).write_text("---\nlicense: mit\n---\n")


def give_away(folder: Path) -> None:
    (folder / CARD).write_text(f"My token is {SECRET}")


CASES: Mapping[str, tuple[Callable[[Path], None], list[str]]] = {
    "big": (litter, GIVEN), "of-the-hub": (of_the_hub, []), "by-card": (lambda folder: None, []),
    "own-card": (rewrite, GIVEN), "changed": (change, [*GIVEN, "--dry-run"]),
}  # fmt: skip
BAD: Mapping[str, tuple[Callable[[Path], None], list[str], str]] = {
    "cut": (cut, GIVEN, "model-00002"), "lost": (lose, GIVEN, "model-00002"),
    "no-base": (no_base, [], "--base org/model"), "secret": (give_away, GIVEN, "SEC010"),
}  # fmt: skip
Uploads = tuple[Hub, Path, dict[str, Done]]


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploads]:
    home = tmp_path_factory.mktemp("merged")
    base, one = tiny.base(home / "the base"), tiny.adapter(home / "sayings")
    at.merge(one, base=base, out=home / "merged", max_shard_size=1500)
    at.merge([one, tiny.adapter(home / "more")], base=base, out=home / "two")
    jobs = {"two": ["upload", "user/two", home / "two", *GIVEN, "--json"]}
    for name, (make, how, *_) in {**CASES, **BAD}.items():
        make(Path(shutil.copytree(home / "merged", home / name)))
        jobs[name] = ["upload", f"user/{name}", home / name, *how, "--json"]
    with Hub() as hub:
        yield hub, home, fan(hub, home / "clients", jobs)


def report(uploads: Uploads, name: str) -> dict[str, Any]:
    done = uploads[2][name]
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    schema.check("report", found)
    return found


def front(data: bytes) -> dict[str, Any]:
    held: dict[str, Any] = yaml.safe_load(data.decode().split("---")[1])
    return held


def test_a_merged_model_arrives(uploads: Uploads) -> None:
    hub, home, done = uploads
    found, merged, held = report(uploads, "big"), home / "big", hub.repo("user/big").all()
    assert len(shards(merged)) > 3
    written = {p.name for p in merged.iterdir()} - {"extra.safetensors", "optimizer.pt"}
    assert held.keys() == written | {".gitattributes"}
    left = {each["name"] for each in found["facts"]["left_out"]}
    assert left == {"extra.safetensors", "optimizer.pt"}
    same = written - {RECEIPT, CARD}
    assert {n: held[n] for n in same} == {n: (merged / n).read_bytes() for n in same}
    for data in (held[RECEIPT], held[CARD], held[CONFIG], done["big"].out.encode()):
        assert str(home).encode() not in data
        assert b"/the base" not in data
    receipt = json.loads(held[RECEIPT])
    schema.check("receipt", receipt)
    assert receipt["base"]["ref"] == "org/base"
    assert [each["ref"] for each in receipt["adapters"]] == ["sayings"]
    card = front(held[CARD])
    assert (card["base_model"], card["base_model_relation"]) == ("org/base", "finetune")
    assert card["library_name"] == "transformers"
    assert {"UPL005", "UPL006"} <= {each["code"] for each in found["findings"]}


def test_what_is_fetched_verifies(uploads: Uploads) -> None:
    hub, home, _ = uploads
    folder = Path(hub.call(home / "clients", FETCH, "user/big").stdout.strip())
    again = at.verify(folder, base=home / "the base", adapters=home / "sayings")
    assert again.ok, again.findings
    for name in shards(folder):
        ours, theirs = load_file(home / "merged" / name), load_file(folder / name)
        assert all((ours[key] == theirs[key]).all() for key in ours)


@pytest.mark.parametrize(
    ("name", "ref", "base", "relation"),
    [
        ("of-the-hub", "org/other@main", "org/other", "finetune"),
        ("by-card", tiny.BASE, tiny.BASE, "finetune"),
        ("two", "org/base", "org/base", "merge"),
        ("own-card", "org/base", "org/base", "merge"),
    ],
)
def test_base_and_relation(
    uploads: Uploads, name: str, ref: str, base: str, relation: str
) -> None:  # fmt: skip
    held = uploads[0].repo(f"user/{name}").all()
    assert json.loads(held[RECEIPT])["base"]["ref"] == ref
    card = front(held[CARD])
    assert (card["base_model"], card["base_model_relation"]) == (base, relation)
    assert report(uploads, name)["facts"]["relation"] == relation


def test_a_card_that_was_rewritten_is_kept(uploads: Uploads) -> None:
    held = uploads[0].repo("user/own-card").data(CARD).decode()
    assert [line for line in held.splitlines() if line in OWN.splitlines()] == OWN.splitlines()


def test_changed_files_are_told(uploads: Uploads) -> None:
    found = report(uploads, "changed")["findings"]
    assert [each["code"] for each in found if each["place"] == CONFIG] == ["UPL007"]


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(uploads: Uploads, name: str) -> None:
    hub, _, done = uploads
    assert (done[name].code, done[name].out) == (1, "")
    assert BAD[name][2] in done[name].err
    assert SECRET not in done[name].err
    assert ("models", f"user/{name}") not in hub.repos


def test_a_broken_upload_goes_on_where_it_was(uploads: Uploads, tmp_path: Path) -> None:
    merged = uploads[1] / "merged"
    with Hub() as hub:
        repo = hub.add("user/big", {CONFIG: b"{}"})
        hub.fault("403", method="PUT", path="/cdn/upload/*", skip=2)
        assert hub.call(tmp_path, EACH, str(merged)).returncode == 1
        assert repo.all() == {CONFIG: b"{}"}
        sent = [one.path for one in hub.requests if one.method == "PUT" and one.status == 200]
        assert len(sent) == 2
        hub.heal()
        hub.requests.clear()
        assert hub.call(tmp_path, EACH, str(merged)).returncode == 0
        again = [one.path for one in hub.requests if one.method == "PUT"]
    assert len(again) == len(shards(merged)) - 2
    assert not set(sent) & set(again)
    assert {n: repo.data(n) for n in shards(merged)} == {
        n: (merged / n).read_bytes() for n in shards(merged)
    }
    assert len(repo.commits) == 2
