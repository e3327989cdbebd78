"""The finer points of the FIL checks: what they say, and what they leave alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import adaptertools as at
from adaptertools.report import Finding
from tests import handmade_pickle as p
from tests.checks import tiny
from tests.checks.make_fil import POINTER
from tests.checks.make_sec import pickled

WEIGHTS = tiny.WEIGHTS_FILE


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny.adapter(tmp_path / "adapter")


def found(folder: Path, code: str) -> list[Finding]:
    """Give what one check finds."""
    report = at.validate(folder, select=[code])
    assert report.facts["checks_run"] == [code], report.skipped
    return list(report.findings)


def put(folder: Path, *names: str, text: str = "x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def said(folder: Path, code: str) -> list[str]:
    return [finding.text for finding in found(folder, code)]


def test_pickled_weights_are_weights(adapter: Path) -> None:
    pickled(adapter)
    assert found(adapter, "FIL001") == []


def test_weights_below(adapter: Path) -> None:
    for step in ("checkpoint-5", "checkpoint-9"):
        (adapter / step).mkdir()
    (adapter / WEIGHTS).rename(adapter / "checkpoint-5" / WEIGHTS)
    (finding,) = found(adapter, "FIL001")
    assert f"checkpoint-5/{WEIGHTS}" in finding.text
    assert finding.hint == "Give that folder."


def test_weights_of_another_name(adapter: Path) -> None:
    (adapter / WEIGHTS).rename(adapter / "pytorch_lora_weights.safetensors")
    assert "there is pytorch_lora_weights.safetensors" in said(adapter, "FIL001")[0]


def test_sharded_weights(adapter: Path) -> None:
    shards = [f"adapter_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (adapter / WEIGHTS).rename(adapter / shards[0])
    index = adapter / f"{WEIGHTS}.index.json"
    tiny.write_json(index, {"weight_map": {"a": shards[0], "b": shards[1]}})
    cut = f"the weights are in shards, {', '.join(shards)}, and PEFT reads {WEIGHTS} alone"
    assert said(adapter, "FIL001") == [cut, f"{index.name} lists {shards[1]}, not there"]
    put(adapter, shards[1])
    assert said(adapter, "FIL001") == [cut]
    index.unlink()
    assert said(adapter, "FIL001") == [cut]
    for name in shards:
        (adapter / name).unlink()
    index.write_text("[]")
    assert said(adapter, "FIL001") == [f"{index.name} lists no files"]


def test_peft_reads_no_shards(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    constants = pytest.importorskip("huggingface_hub.constants")
    assert peft.utils.load_peft_weights(str(adapter), device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (adapter / WEIGHTS).rename(adapter / "adapter_model-00001-of-00001.safetensors")
    mapped = {"weight_map": {"a": "adapter_model-00001-of-00001.safetensors"}}
    tiny.write_json(adapter / f"{WEIGHTS}.index.json", mapped)
    with pytest.raises((OSError, ValueError)):
        peft.utils.load_peft_weights(str(adapter), device="cpu")


@pytest.mark.parametrize(
    ("config", "weights"),
    [({"fine_tune_type": "lora"}, "adapters.safetensors"),
     ({"config": {}, "model_type": "bert"}, "pytorch_adapter.bin")],
)  # fmt: skip
def test_each_library_has_its_own_names(config: object, weights: str, adapter: Path) -> None:
    tiny.write_json(adapter / tiny.CONFIG_FILE, config)
    assert weights in said(adapter, "FIL001")[0]
    (adapter / WEIGHTS).rename(adapter / weights)
    assert found(adapter, "FIL001") == []


def test_a_library_of_unknown_names_is_left_alone(adapter: Path) -> None:
    tiny.write_json(adapter / tiny.CONFIG_FILE, {"network": "home"})
    (adapter / WEIGHTS).unlink()
    assert found(adapter, "FIL001") == []


def test_a_pointer_tells_the_size(adapter: Path) -> None:
    put(adapter, WEIGHTS, text=POINTER)
    assert said(adapter, "FIL002") == [f"{WEIGHTS} is a Git LFS pointer in place of 16777216 bytes"]


def test_what_speaks_of_pointers_is_none(adapter: Path) -> None:
    put(adapter, "NOTES.md", text=f"This is how a pointer looks:\n{POINTER}")
    put(adapter, "LICENSE", text=POINTER + "x" * 2000)
    assert found(adapter, "FIL002") == []


def test_two_kinds_of_weights(adapter: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(p.zipped())
    assert said(adapter, "FIL003") == [
        f"adapter_model.bin is there beside {WEIGHTS}, which is read"
    ]


@pytest.mark.parametrize(
    ("name", "copied"),
    [("adapter_model (1).safetensors", True), ("adapter_model.old.safetensors", True),
     ("adapters copy.safetensors", True), ("adapter_model_bak.bin", True),
     ("copyist.safetensors", False), ("threshold.safetensors", False)],
)  # fmt: skip
def test_copies_by_name(name: str, copied: bool, adapter: Path) -> None:
    put(adapter, name)
    assert said(adapter, "FIL003") == [f"{name} looks like a copy"] * copied


def test_copies_by_their_bytes(adapter: Path) -> None:
    data = (adapter / WEIGHTS).read_bytes()
    (adapter / "final.safetensors").write_bytes(data)
    (adapter / "other.safetensors").write_bytes(data[:-1] + b"\7")
    assert len(found(adapter, "FIL003")) == 1
    (adapter / "final.safetensors").write_bytes(data[:-1] + b"\6")
    assert found(adapter, "FIL003") == []


def test_leftovers_are_counted_by_folder(adapter: Path) -> None:
    put(adapter, "optimizer.pt", "checkpoint-5/optimizer.pt", "checkpoint-5/a/b.txt", "runs/events",
        "rng_state_0.pth", "events.out.tfevents.17", "sub/.DS_Store")  # fmt: skip
    assert sorted(said(adapter, "FIL004")) == [
        "checkpoint-5/ holds 2 files of the training",
        "events.out.tfevents.17 is of the training",
        "optimizer.pt is of the training",
        "rng_state_0.pth is of the training",
        "runs/ holds 1 files of the training",
        "sub/ holds 1 files of the training",
    ]


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "pytorch_model.bin"])
def test_whole_models(name: str, adapter: Path) -> None:
    put(adapter, name, f"sub/{name}")
    assert said(adapter, "FIL005") == [f"{name} belongs to a whole model"]
    (adapter / tiny.CONFIG_FILE).unlink()
    assert found(adapter, "FIL005") == [], "then it is a model, and no adapter"


def test_a_pickle_that_kept_its_storage(adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()
    held = p.tensor(p.storage("0", 10**6))
    raw = p.zipped(p.mapped(("a.lora_A.weight", held)), bytes(4 * 10**6))
    (adapter / "adapter_model.bin").write_bytes(raw)
    (finding,) = found(adapter, "FIL006")
    assert "its tensors 16" in finding.text
    assert "Clone" in finding.hint


def test_more_than_a_gigabyte(adapter: Path) -> None:
    wide = p.tensor(p.storage("0", 4), shape=[10**9], stride=[0])
    (adapter / WEIGHTS).unlink()
    (adapter / "adapter_model.bin").write_bytes(p.zipped(p.mapped(("a.lora_A.weight", wide))))
    assert said(adapter, "FIL006") == ["adapter_model.bin holds 4.0 GB"]


def test_weights_saved_whole_are_lora_only(adapter: Path) -> None:
    tiny.set_tensors(adapter, lambda _: {"base_model.model.lm_head.weight": tiny.noise(4, 4)})
    assert "100% of the bytes" in said(adapter, "FIL006")[0]
    tiny.set_config(adapter, peft_type="IA3")
    assert found(adapter, "FIL006") == []


def names(folder: Path, *wrong: str) -> None:
    for name in wrong:
        (folder / name).write_text("x")


UNSAFE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link up": (lambda f: (f / "a.md").symlink_to("../a"), "link to no file of this"),
    "a link to a folder": (lambda f: (f / "a.md").symlink_to("/"), "link to no file of this"),
    "a link to itself": (lambda f: (f / "a.md").symlink_to("a.md"), "link to no file of this"),
    "a pipe": (lambda f: os.mkfifo(f / "a.md"), "pipe, socket"),
    "a backslash": (lambda f: names(f, "a\\b.md"), "backslash"),
    "a leading backslash": (lambda f: names(f, "\\b.md"), "root of a disk"),
    "a disk": (lambda f: names(f, "c:b.md"), "root of a disk"),
    "up, on Windows": (lambda f: names(f, "a\\..\\b.md"), "leaves the folder"),
    "a new line": (lambda f: names(f, "a\nb.md"), r"a\nb.md holds a control letter"),
    "bytes that are no text": (lambda f: os.mkdir(f / "a") or names(f, "a/\udcff.md"), ""),
    "two cases": (lambda f: names(f, "readme.md"), "README.md, readme.md are one file"),
    "two spellings": (lambda f: names(f, "\u00e9.md", "e\u0301.md"), "are one file"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_unsafe(case: str, adapter: Path) -> None:
    change, words = UNSAFE[case]
    change(adapter)
    texts = said(adapter, "FIL007")
    assert len(texts) == bool(words)
    assert words in "".join(texts)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "C:\\a", ".."])
def test_names_in_an_index(name: str, adapter: Path) -> None:
    index = adapter / f"{WEIGHTS}.index.json"
    tiny.write_json(index, {"weight_map": {"a": name}})
    (finding,) = found(adapter, "FIL007")
    assert finding.file == index.name


def test_links_that_stay(adapter: Path, tmp_path: Path) -> None:
    (adapter / "NOTICE").symlink_to("README.md")
    assert found(adapter, "FIL007") == []
    snapshot, blobs = tmp_path / "models--a" / "snapshots" / "1", tmp_path / "models--a" / "blobs"
    blobs.mkdir(parents=True)
    tiny.adapter(snapshot)
    for i, path in enumerate(snapshot.iterdir()):
        path.rename(blobs / str(i))
        path.symlink_to(f"../../blobs/{i}")
    assert at.validate(snapshot, select=["FIL"]).findings == ()


def test_dots_in_names_are_harmless(adapter: Path) -> None:
    put(adapter, "a..b.md", "...md", "v1.2..md")
    assert found(adapter, "FIL007") == []


def test_unused_files_are_told_together(adapter: Path) -> None:
    put(adapter, "b.json", "a.yaml", "LICENSE", "vocab.txt", "figures/loss.png", "setup.py")
    assert said(adapter, "FIL008") == ["nothing that loads the adapter reads a.yaml, b.json"]
    put(adapter, "README.md", text=f"{tiny.CARD}\nSee a.yaml and b.json.\n")
    assert found(adapter, "FIL008") == []
