"""The files beside the weights: which come along, whose, and which never do."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import adaptertools as at
from tests import tiny_llama as tiny

# Bytes that no text editor would keep.
ODD = b"\xef\xbb\xbf{}\r\n\xff\x00"
COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "preprocessor_config.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
    "USE_POLICY.md",
)
NEVER = (
    "pytorch_model.bin",
    "optimizer.pt",
    "scheduler.pt",
    "training_args.bin",
    "rng_state.pth",
    "trainer_state.json",
    "model.onnx",
    "tf_model.h5",
    "flax_model.msgpack",
    "model.gguf",
    "consolidated.00.pth",
    "data.pkl",
    ".gitattributes",
    "pytorch_model.bin.index.json",
    "requirements.txt",
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.small(tmp_path)[0]


@pytest.fixture
def adapter(base: Path) -> Path:
    return base.parent / "adapter"


def put(folder: Path, *names: str, data: bytes | None = None) -> None:
    """Write files that say where they were written."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{folder.name}/{name}".encode() if data is None else data)


def merged(base: Path, *adapters: Path) -> tuple[Path, set[str]]:
    """Merge and verify; gives the folder, and the files beside what every merge writes."""
    out = base.parent / "out"
    at.merge(adapters, base=base, out=out)
    assert at.verify(out).ok
    usual = {"README.md", "adaptertools.json", "config.json", "model.safetensors"}
    return out, set(tiny.contents(out)) - usual


def codes(out: Path) -> dict[str, str]:
    """What the receipt says was worth saying: code to level."""
    findings = json.loads((out / "adaptertools.json").read_text())["findings"]
    return {finding["code"]: finding["level"] for finding in findings}


def test_what_belongs_to_the_model_is_copied_byte_for_byte(base: Path, adapter: Path) -> None:
    put(base, *COPIED, data=ODD)
    out, names = merged(base, adapter)
    assert names == set(COPIED)
    for name in COPIED:
        assert (out / name).read_bytes() == ODD


def test_pickles_and_what_training_left_never_are(base: Path, adapter: Path) -> None:
    put(base, *NEVER)
    put(adapter, *NEVER)
    put(base, "checkpoint-100/tokenizer.json", "onnx/config.json", "original/params.json")
    out, names = merged(base, adapter)
    assert names == set()
    assert codes(out) == {"MRG020": "note"}


def test_the_config_is_the_bases_own_where_nothing_changes(base: Path, adapter: Path) -> None:
    text = json.dumps(tiny.CONFIG, indent=7) + "\r\n"
    (base / "config.json").write_bytes(text.encode())
    out, _ = merged(base, adapter)
    assert (out / "config.json").read_bytes() == text.encode()


def test_a_base_without_config_gets_none(base: Path, adapter: Path) -> None:
    (base / "config.json").unlink()
    out = base.parent / "out"
    at.merge(adapter, base=base, out=out)
    assert not (out / "config.json").exists()
    assert at.verify(out).ok


# Tokenizers


def test_the_adapters_tokenizer_wins_as_a_set(base: Path, adapter: Path) -> None:
    put(base, "tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "LICENSE")
    put(base, "tokenizer.model", "chat_template.jinja")
    put(adapter, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    out, names = merged(base, adapter)
    assert names == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE"}
    for name in names - {"LICENSE"}:
        assert (out / name).read_text() == f"adapter/{name}"
    assert codes(out) == {"MRG021": "note"}


def test_a_template_alone_leaves_the_bases_tokenizer(base: Path, adapter: Path) -> None:
    put(base, "tokenizer.json", "vocab.json", "chat_template.jinja")
    put(adapter, "chat_template.jinja")
    out, names = merged(base, adapter)
    assert names == {"tokenizer.json", "vocab.json", "chat_template.jinja"}
    assert (out / "chat_template.jinja").read_text() == "adapter/chat_template.jinja"
    assert (out / "vocab.json").read_text() == "base/vocab.json"
    assert "MRG021" in codes(out)


def second(adapter: Path) -> Path:
    """Another adapter, with other weights."""
    tensors = tiny.llama()
    pairs = tiny.factors(tensors, tiny.linears(tensors)[:3], seed=8)
    return tiny.save_lora(adapter.parent / "second", adapter.parent / "base", pairs)


def test_of_two_tokenizers_the_first_is_taken_and_it_is_said(base: Path, adapter: Path) -> None:
    other = second(adapter)
    put(adapter, "tokenizer.json")
    put(other, "tokenizer.json", "tokenizer_config.json")
    out, names = merged(base, adapter, other)
    assert names == {"tokenizer.json"}
    assert (out / "tokenizer.json").read_text() == "adapter/tokenizer.json"
    assert codes(out) == {"MRG021": "note", "MRG022": "warning"}


def test_of_two_equal_tokenizers_nothing_is_said(base: Path, adapter: Path) -> None:
    other = second(adapter)
    put(adapter, "tokenizer.json", data=b"same")
    put(other, "tokenizer.json", data=b"same")
    out, _ = merged(base, adapter, other)
    assert codes(out) == {"MRG021": "note"}


def test_the_only_tokenizer_is_taken_from_whoever_has_it(base: Path, adapter: Path) -> None:
    other = second(adapter)
    put(other, "tokenizer.json")
    out, names = merged(base, adapter, other)
    assert names == {"tokenizer.json"}
    assert (out / "tokenizer.json").read_text() == "second/tokenizer.json"


def test_the_adapters_own_files_stay_behind(base: Path, adapter: Path) -> None:
    put(adapter, "README.md", "trainer_state.json", "generation_config.json", "LICENSE", "x.py")
    out, names = merged(base, adapter)
    assert names == set()
    assert "adapter/README.md" not in (out / "README.md").read_text()


# Folders and code


def test_modules_of_sentence_transformers_come_along(base: Path, adapter: Path) -> None:
    folders = ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors")
    kept = ("modules.json", "config_sentence_transformers.json", *folders)
    put(base, *kept, "2_Dense/pytorch_model.bin", "3_Normalize/.keep")
    out, names = merged(base, adapter)
    assert names == set(kept)
    for name in kept:
        assert (out / name).read_text() == f"base/{name}"


def test_named_templates_come_along(base: Path, adapter: Path) -> None:
    put(base, "chat_template.jinja", "additional_chat_templates/tool.jinja")
    assert merged(base, adapter)[1] == {
        "chat_template.jinja",
        "additional_chat_templates/tool.jinja",
    }


@pytest.mark.parametrize("auto_map", [{"AutoModel": "modeling_x.X"}, None])
def test_code_comes_along_only_where_the_config_needs_it(
    auto_map: dict[str, str] | None, base: Path, adapter: Path
) -> None:
    config = dict(tiny.CONFIG) | ({"auto_map": auto_map} if auto_map else {})
    (base / "config.json").write_text(json.dumps(config))
    put(base, "modeling_x.py", "configuration_x.py")
    _, names = merged(base, adapter)
    assert names == ({"modeling_x.py", "configuration_x.py"} if auto_map else set())


# The card


def front(out: Path) -> dict[str, Any]:
    """The front matter of the card."""
    text = (out / "README.md").read_text("utf-8")
    _, head, body = text.split("---\n", 2)
    assert body.strip()
    said: dict[str, Any] = yaml.safe_load(head)
    return said


def named(adapter: Path, base: str) -> None:
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": base}
    path.write_text(json.dumps(config))


def test_the_card_names_base_and_licence(base: Path, adapter: Path) -> None:
    card = (
        "---\nlicense: other\nlicense_name: llama-3\nlicense_link: LICENSE\ntags: [x]\n---\n# Hi\n"
    )
    (base / "README.md").write_text(card)
    named(adapter, "org/model-1.5")
    out, _ = merged(base, adapter)
    assert front(out) == {
        "base_model": "org/model-1.5",
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": "other",
        "license_link": "LICENSE",
        "license_name": "llama-3",
        "tags": ["merge", "adaptertools"],
    }


def test_the_card_tells_adapters_and_scales(base: Path, adapter: Path) -> None:
    at.merge([adapter, second(adapter)], base=base, out=base.parent / "out", scale=[1, -0.25])
    text = (base.parent / "out" / "README.md").read_text()
    assert "| `adapter` | LORA | 4 | 1 |" in text
    assert "| `second` | LORA | 4 | -0.25 |" in text


def test_the_card_holds_no_path_of_this_machine(base: Path, adapter: Path) -> None:
    put(adapter, "tokenizer.json")
    put(base, "pytorch_model.bin")
    out, _ = merged(base, adapter)
    assert str(base.parent) not in (out / "README.md").read_text()
    assert front(out).keys() == {"base_model_relation", "library_name", "tags"}


LICENCES = {
    "none": ("", None),
    "plain text": ("license: mit\n", None),
    "quoted": ('---\nlicense: "mit"\n---\n', "mit"),
    "a rule further down": ("---\nlicense: mit\n---\nText\n---\nlicense: gpl\n", "mit"),
    "windows": ("---\r\nlicense: mit\r\n---\r\n", "mit"),
    "dashes": ("---\ntitle: a---b\nlicense: mit\n---\n", "mit"),
    "list": ("---\nlicense:\n- mit\n---\n", ["mit"]),
    "nested": ("---\nmodel:\n  license: gpl\nlicense: mit\n---\n", "mit"),
}


@pytest.mark.parametrize(("text", "licence"), LICENCES.values(), ids=LICENCES)
def test_the_licence_is_the_bases(text: str, licence: object, base: Path, adapter: Path) -> None:
    (base / "README.md").write_bytes(text.encode())
    assert front(merged(base, adapter)[0]).get("license") == licence


def test_a_hostile_name_of_the_base_stays_out_of_the_card(base: Path, adapter: Path) -> None:
    named(adapter, 'org/model"\nlicense: gpl')
    assert front(merged(base, adapter)[0]).keys() == {"base_model_relation", "library_name", "tags"}


@pytest.mark.parametrize("licence", ["mit\u2028pipeline_tag: x", "'mit\n  or other'"])
def test_a_licence_that_is_no_plain_word_leaves_the_card_readable(
    licence: str, base: Path, adapter: Path
) -> None:
    (base / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    assert "pipeline_tag" not in front(merged(base, adapter)[0])


# Caches


def as_in_the_cache(folder: Path, repo: str) -> Path:
    """Move a folder's files to blobs, and link to them as the Hub's cache does."""
    cache = folder.parent / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot, blobs = cache / "snapshots" / "0123abc", cache / "blobs"
    blobs.mkdir(parents=True)
    for i, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / f"{i:040x}")
        depth = len(link.relative_to(cache).parts) - 1
        link.symlink_to(Path(*[".."] * depth, "blobs", f"{i:040x}"))
    return snapshot


def test_links_of_the_hubs_cache_are_followed(base: Path, adapter: Path) -> None:
    put(base, "tokenizer.json", "1_Pooling/config.json")
    wanted, _ = merged(base, adapter)
    plain = tiny.contents(wanted)
    links = as_in_the_cache(base, "org/model"), as_in_the_cache(adapter, "me/lora")
    before = tiny.contents(base.parent / "hub")
    at.merge(links[1], base=links[0], out=base.parent / "again")
    ours = tiny.contents(base.parent / "again")
    assert at.verify(base.parent / "again").ok
    assert not any(path.is_symlink() for path in (base.parent / "again").rglob("*"))
    assert {n: d for n, d in ours.items() if n not in ("README.md", "adaptertools.json")} == {
        n: d for n, d in plain.items() if n not in ("README.md", "adaptertools.json")
    }
    assert tiny.contents(base.parent / "hub") == before
