"""What leaves the machine, and what stays: by lists, and without any network."""

import json
import re
from pathlib import Path

import pytest

from adaptertools.errors import NotFound, Unsafe, Unsupported
from adaptertools.verbs import _upload_base, _upload_choice, _upload_receipt
from adaptertools.verbs._place import listed
from tests.checks import tiny

SENT = {
    "LICENSE", "NOTICE.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.json", "merges.txt", "spiece.model", "chat_template.jinja", "CITATION.cff",
    "additional_chat_templates/tool.jinja", "curve.png", "figures/loss.svg",
    "preprocessor_config.json",
}  # fmt: skip
LEFT = {
    "optimizer.pt": "training", "rng_state_0.pth": "training", "training_args.bin": "training",
    "checkpoint-6/adapter_model.safetensors": "another adapter",
    "checkpoint-6/adapter_config.json": "another adapter", "runs/x/y.1": "training",
    "wandb/run.json": "training", "adapter_model.bin": "in its place", "old.pt": "pickle",
    "deep/weights.npz": "pickle", "model.safetensors": "whole model", "config.json": "whole model",
    "train.py": "code", "run.sh": "code", ".env": "hidden", ".cache/huggingface/x.json": "hidden",
    "adaptertools.json": "receipt", "adaptertools.download.json": "receipt", "x.tmp": "unfinished",
    "merged.partial/model.safetensors": "unfinished", "notes.txt": "--include",
    "other.png": "--include", "deep/tokenizer.json": "--include", "bad\\name.json": "--include",
    "Spiece.model": "case", "con.model": "device", "README.md~": "unfinished",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make an adapter's folder as training leaves it."""
    place = tiny.adapter(tmp_path / "adapter")
    for name in (*SENT, *LEFT):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"{}")
    tmp_path.joinpath("secret.json").write_text("{}")
    (place / "vocab.txt").symlink_to(tmp_path / "secret.json")
    (place / "added_tokens.json").symlink_to(place / "vocab.json")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    (place / "tokenizer.model").write_text(pointer)
    return place


CARD = "![the curve](curve.png) <img src='figures/loss.svg'> and another.png"


def test_what_an_adapter_needs(folder: Path) -> None:
    choice = _upload_choice.of_adapter(listed(folder), (), (), CARD)
    own = {"adapter_config.json", "adapter_model.safetensors", "README.md", "added_tokens.json"}
    assert set(choice.sent) == SENT | own
    assert set(choice.left) == {*LEFT, "vocab.txt", "tokenizer.model"}
    for name, word in LEFT.items():
        assert word in choice.left[name], name
    assert "link" in choice.left["vocab.txt"]
    assert "git lfs pull" in choice.left["tokenizer.model"]


def test_include_and_exclude(folder: Path) -> None:
    files = listed(folder)
    more = _upload_choice.of_adapter(files, ("*",), ("figures/", "vocab*"), CARD)
    back = set(more.sent) - SENT
    assert {"notes.txt", "other.png", "deep/tokenizer.json", "train.py", "config.json"} <= back
    assert not {n for n in back if re.search(r"\.(pt|pth|bin|npz)$|^\.|partial|adaptertools", n)}
    assert not {"vocab.txt", "checkpoint-6/adapter_config.json"} & back
    assert "--exclude" in more.left["figures/loss.svg"]
    assert "--exclude" in more.left["vocab.json"]


@pytest.mark.parametrize(
    "name", ["facebook/opt-350m", "gpt2", "01-ai/Yi-6B", "Qwen/Qwen2.5-0.5B", "a_b/c.d"]
)
def test_bases_on_the_hub(name: str) -> None:
    assert _upload_base.choose(name, None, "it") == name
    assert _upload_base.choose("/srv/me/x", name, "it") == name


@pytest.mark.parametrize(
    "name",
    ["/data/llama", "./out", "../base", "~/models/x", "C:\\models\\x", "models/llama", "a/b/c",
     "output/checkpoint-6", "file:///x", "org/..", "org/a--b", "org/", "here"],
)  # fmt: skip
def test_bases_that_are_paths(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(Unsafe, match=r"--base org/model"):
        _upload_base.choose(name, None, "it")
    if name not in ("here", "models/llama", "output/checkpoint-6"):  # the user knows better
        with pytest.raises(Unsupported, match=r"org/model"):
            _upload_base.choose("gpt2", name, "it")


@pytest.mark.parametrize("name", ["", "  ", None, 3])
def test_no_base_at_all(name: object) -> None:
    with pytest.raises(NotFound, match=r"--base org/model"):
        _upload_base.choose(name, None, "it")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1.50, "base_model_name_or_path":   "/x/\\u00e9\\"" , "z": [1,\n 2]}',
        '{\n  "base_model_name_or_path": null,\n  "r": 8\n}\n',
        '{"nested": {"base_model_name_or_path": "in"}, "base_model_name_or_path": "out"}',
        '{"r": 8}',
    ],
)
def test_only_the_base_is_rewritten(text: str) -> None:
    made = _upload_base.renamed(text.encode(), "org/model").decode()
    key = "base_model_name_or_path"
    assert json.loads(made) == {**json.loads(text), key: "org/model"}
    if key in text:
        before, after = text.split(f'"{key}"')[0], text.rsplit(",", 1)[-1]
        assert made.startswith(before)
        assert made.endswith(after) or after in made or "out" in after


@pytest.mark.parametrize(
    ("said", "public"),
    [
        ("/srv/me/models/llama", "llama"),
        ("/srv/me/my models/llama 2/", "llama 2"),
        ("C:\\Users\\me\\llama", "llama"),
        ("../../base", "base"),
        ("~/base/tokenizer.json", "tokenizer.json"),
        ("/h/hub/models--org--name/snapshots/0af1/tokenizer.json", "org/name/tokenizer.json"),
        ("off from /data/me/base by 3 %, see ./x/y.", "off from base by 3 %, see y."),
        ("original '/data/me/base'", "original 'base'"),
        (
            "org/name and https://host.example/a/b, 3/4",
            "org/name and https://host.example/a/b, 3/4",
        ),
        ("model.layers.0.q_proj.weight", "model.layers.0.q_proj.weight"),
        ("hf://org/name@main/sub", "hf://org/name@main/sub"),
    ],
)
def test_paths_are_reduced(said: str, public: str) -> None:
    held = {"x": [{"y": said}, 3, None]}
    assert _upload_receipt.public(held) == {"x": [{"y": public}, 3, None]}


def test_relations() -> None:
    def receipt(edits: list[object], *scales: float) -> dict[str, object]:
        return {"adapters": [{"scale": scale} for scale in scales], "edits": edits}

    plain = {"updates": [{}], "parts": ["a"]}
    packed = {"updates": [], "parts": [], "packing": {"from": "plain", "to": "nf4"}}
    assert _upload_receipt.relation(receipt([plain], 1.0))[0] == "finetune"
    assert _upload_receipt.relation(receipt([plain, plain], 1.0, 0.5))[0] == "merge"
    assert _upload_receipt.relation(receipt([packed, plain | packed], 1.0))[0] == "quantized"
    assert _upload_receipt.relation(receipt([packed, plain], 1.0))[0] == "finetune"
    assert _upload_receipt.relation(receipt([packed, plain], 0.0))[0] == "quantized"
    unpacked = {**packed, "packing": {"from": "nf4", "to": "plain"}}
    assert _upload_receipt.relation(receipt([unpacked], 0.0))[0] == "finetune"
