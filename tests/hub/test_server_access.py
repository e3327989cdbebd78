"""Who is let in by the loopback hub, and what the others are told."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.hub.test_server import CARD, FILES, ask
from tests.hub_server import READER, STRANGER, TOKEN, Hub

TRIALS = """
names = ["open", "hidden", "missing", "gated", "fixed", "off", "old"]
def trial(name):
    repo = f"user/{name}"
    return [kind(api.model_info, repo), kind(api.hf_hub_download, repo, "README.md"),
            kind(api.create_commit, repo, [Add("x.txt", b"1")], commit_message="x")]
print(json.dumps({name: trial(name) for name in names}))
"""
FINE, GONE, REFUSED = "fine", "RepositoryNotFoundError", "HfHubHTTPError"
LOCAL = "LocalEntryNotFoundError"
EXPECTED = {
    # Each: model_info, a file, a commit. On http a bare 401 stays a plain error.
    "": {
        "open": [FINE, FINE, REFUSED],
        "hidden": [REFUSED, REFUSED, REFUSED],
        "missing": [REFUSED, REFUSED, REFUSED],
        "gated": [FINE, "GatedRepoError", REFUSED],
    },
    STRANGER: {
        "open": [FINE, FINE, REFUSED],
        "hidden": [GONE, GONE, GONE],
        "missing": [GONE, GONE, GONE],
        "gated": [FINE, "GatedRepoError", REFUSED],
    },
    READER: {"open": [FINE, FINE, REFUSED], "gated": [FINE, FINE, REFUSED]},
    TOKEN: {
        "open": [FINE, FINE, FINE],
        "hidden": [FINE, FINE, FINE],
        "gated": [FINE, FINE, FINE],
        "fixed": [FINE, FINE, REFUSED],
        "off": ["DisabledRepoError", LOCAL, "DisabledRepoError"],
        "old": [FINE, FINE, FINE],
    },
    "hf_nobodyhasthis": {"open": [REFUSED, REFUSED, REFUSED]},
}


@pytest.mark.parametrize("token", EXPECTED, ids=["none", "stranger", "reader", "owner", "bad"])
def test_who_may_do_what(tmp_path: Path, token: str) -> None:
    with Hub() as hub:
        hub.add("user/open", FILES)
        hub.add("user/hidden", FILES, private=True)
        hub.add("user/gated", FILES, gated="manual")
        hub.add("user/fixed", FILES, readonly=True)
        hub.add("user/off", FILES, disabled=True)
        hub.add("user/young", FILES)
        hub.move("user/young", "user/old")
        hub.move("user/old", "user/new")
        told = ask(hub, tmp_path, TRIALS, token=token)
    assert {name: told[name] for name in EXPECTED[token]} == EXPECTED[token]


def test_strangers_may_be_told_more(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.bare_401 = False
        assert ask(hub, tmp_path, TRIALS, token="")["missing"][0] == GONE


def test_repositories_are_made_moved_and_deleted(tmp_path: Path) -> None:
    code = """
out = [api.whoami()["name"], kind(api.create_repo, "stranger/x"),
       str(api.create_repo("org/a", repo_type="dataset"))]
api.create_repo("org/a")
out.append(kind(api.create_repo, "org/a"))
api.move_repo("org/a", "org/b")
api.update_repo_settings("org/b", gated="manual", private=True)
info = api.model_info("org/a")
out += [info.id, info.gated, info.private]
api.delete_repo("org/b")
print(json.dumps([*out, kind(api.model_info, "org/b")]))
"""
    with Hub() as hub:
        told = ask(hub, tmp_path, code)
        assert told == ["user", REFUSED, f"{hub.endpoint}/datasets/org/a", REFUSED,
                        "org/b", "manual", True, GONE]  # fmt: skip


def test_cards_are_judged(tmp_path: Path) -> None:
    code = """
def told(text):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            api._validate_yaml(text)
        except ValueError as error:
            return str(error)
    return str(heard[0].message) if heard else "fine"
print(json.dumps([told(text) for text in json.loads(sys.argv[1])]))
"""
    cards = [
        CARD.decode(),
        "---\nbase_model: /content/drive/model\n---\n",
        "---\nbase_model: [a/b, ./model]\n---\n",
        "---\na: [1\n---\n",
        "# no metadata",
    ]
    import json

    from tests.hub.test_server import START

    with Hub() as hub:
        done = hub.call(tmp_path, START + code, json.dumps(cards))
    fine, path, mixed, broken, empty = json.loads(done.stdout)
    assert fine == "fine"
    assert '"/content/drive/model" is not valid' in path
    assert '"./model" is not valid' in mixed
    assert "Invalid YAML" in broken
    assert "empty or missing yaml" in empty


def test_the_second_origin_turns_tokens_away() -> None:
    with Hub() as hub:
        entry = hub.add("user/repo", FILES).head.files["adapter_model.safetensors"]
        url = f"{hub.cdn}/user/repo/{entry.sha256}/adapter_model.safetensors"
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == FILES["adapter_model.safetensors"]
        assert hub.leaks == []
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request)
        assert [one.path for one in hub.leaks] == [url.removeprefix(hub.cdn.removesuffix("/cdn"))]


def test_small_files_may_come_directly(tmp_path: Path) -> None:
    code = 'print(json.dumps(api.hf_hub_download("user/repo", "README.md")))'
    with Hub() as hub:
        hub.add("user/repo", FILES)
        hub.resolve_cache = False
        assert Path(ask(hub, tmp_path, code)).read_bytes() == CARD
        assert not any("resolve-cache" in one.path for one in hub.requests)


def test_the_command_line_meets_this_hub(tmp_path: Path) -> None:
    with Hub() as hub:
        done = hub.run(tmp_path, "--version")
    assert done.returncode == 0, done.stderr
    assert "adaptertools" in done.stdout
