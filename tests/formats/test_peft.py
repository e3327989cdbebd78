"""PEFT's folder: junk in the names, tensors that say the same, and files that are none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adaptertools as at
from adaptertools.errors import (
    AdapterToolsError,
    Mismatch,
    UnknownFormat,
    Unreadable,
)
from tests import handmade
from tests.handmade import START

Rename = Callable[[str], str]

ROWS = f"{START}model.embed_tokens.token_adapter.trainable_tokens_delta"


def opened(folder: Path, tensors: handmade.Arrays | None = None, **config: Any) -> at.Adapter:
    """Write the LoRA with some changes, and open it."""
    return at.open(handmade.adapter(folder / "adapter", tensors, **config))


def put(junk: str) -> Rename:
    """Rename: junk before the last but two components, which are the module's name."""

    def rename(name: str) -> str:
        head, module, role, last = name.rsplit(".", 3)
        return f"{head}.{junk}{module}.{role}.{last}"

    return rename


def called(adapter: str) -> Rename:
    """Rename: the adapter's name left in."""
    return lambda name: name.replace(".weight", f".{adapter}.weight")


JUNK: dict[str, tuple[Rename, dict[str, int]]] = {
    "compiled": (put("_orig_mod."), {"_orig_mod": 8}),
    "compiled as a whole": (lambda n: f"_orig_mod.{n}", {"_orig_mod": 8}),
    "FSDP": (put("_fsdp_wrapped_module."), {"_fsdp_wrapped_module": 8}),
    "checkpointed": (put("_checkpoint_wrapped_module."), {"_checkpoint_wrapped_module": 8}),
    "data parallel": (lambda n: f"module.{n}", {"module": 8}),
    "data parallel inside": (lambda n: n.replace(START, f"{START}module."), {"module": 8}),
    "doubled": (lambda n: START + n, {"base_model.model": 8}),
    "trebled": (lambda n: START * 2 + n, {"base_model.model": 16}),
    "no prefix": (lambda n: n.removeprefix(START), {"(no base_model.model prefix)": 8}),
    "adapter name": (called("default"), {"adapter name default": 8}),
    "adapter called lora": (called("lora"), {"adapter name lora": 8}),
    "adapter called lora_A": (called("lora_A"), {"adapter name lora_A": 8}),
    "adapter called my.adapter": (called("my.adapter"), {"adapter name my.adapter": 8}),
    "several": (
        lambda n: called("default")("module." + put("_orig_mod._fsdp_wrapped_module.")(n)),
        {"module": 8, "_orig_mod": 8, "_fsdp_wrapped_module": 8, "adapter name default": 8},
    ),
    "some only": (lambda n: put("_orig_mod.")(n) if "q_proj" in n else n, {"_orig_mod": 4}),
}


@pytest.mark.parametrize("kind", JUNK)
def test_junk_in_names_is_counted_and_changes_nothing(kind: str, tmp_path: Path) -> None:
    rename, stripped = JUNK[kind]
    base, clean = handmade.base(tmp_path / "base"), handmade.adapter(tmp_path / "clean")
    junk = opened(tmp_path, handmade.renamed(rename))
    assert junk.stripped == stripped
    assert [e.target for e in junk.entries] == [e.target for e in at.open(clean).entries]
    report = at.merge(junk.folder, base=base, out=tmp_path / "out")
    assert [f.code for f in report.findings] == ["MRG004"] * len(stripped)
    at.merge(clean, base=base, out=tmp_path / "expected")
    written, expected = (tmp_path / o / "model.safetensors" for o in ("out", "expected"))
    assert written.read_bytes() == expected.read_bytes()
    assert handmade.read(tmp_path / "expected").keys() == handmade.merged().keys()


def test_clean_names_have_nothing_stripped(tmp_path: Path) -> None:
    adapter = opened(tmp_path, base_model_name_or_path="some/base")
    assert (adapter.stripped, adapter.ignored) == ({}, {})
    assert (adapter.format, adapter.method, adapter.base) == ("peft", "LORA", "some/base")
    assert (adapter.rank, adapter.targets) == (2, ("down_proj", "q_proj"))
    assert {entry.scale for entry in adapter.entries} == {2.0}


def test_merged_values(tmp_path: Path) -> None:
    base, adapter = handmade.base(tmp_path / "base"), handmade.adapter(tmp_path / "adapter")
    at.merge(adapter, base=base, out=tmp_path / "out")
    expected = handmade.merged()
    assert handmade.read(tmp_path / "out").keys() == expected.keys()
    for name, tensor in handmade.read(tmp_path / "out").items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


@pytest.mark.parametrize("rename", [put("_orig_mod."), called("default")])
@pytest.mark.parametrize("differ", [False, True])
def test_two_spellings_of_one_factor(rename: Rename, differ: bool, tmp_path: Path) -> None:
    tensors = handmade.lora_tensors()
    name = next(iter(tensors))
    tensors[rename(name)] = tensors[name] + differ
    with pytest.raises(Unreadable, match="are the same tensor once wrappers are taken off"):
        opened(tmp_path, tensors)


def test_one_module_adapted_twice(tmp_path: Path) -> None:
    def nested(name: str) -> str:
        return name.replace(".lora_", ".base_layer.lora_")

    adapter = handmade.adapter(
        tmp_path / "adapter", handmade.lora_tensors() | handmade.renamed(nested)
    )
    base = handmade.base(tmp_path / "base")
    with pytest.raises(AdapterToolsError):
        at.plan(adapter, base=base, out=tmp_path / "out")


def test_two_spellings_of_token_rows(tmp_path: Path) -> None:
    rows = {ROWS: handmade.noise(2, 8), f"_orig_mod.{ROWS}": handmade.noise(2, 8, seed=1)}
    with pytest.raises(Unreadable, match="trainable_tokens_delta"):
        opened(tmp_path, {**handmade.lora_tensors(), **rows}, trainable_token_indices=[1, 2])


def test_a_copy_that_is_saved_twice(tmp_path: Path) -> None:
    head = handmade.noise(12, 8)
    names = [f"{START}lm_head.weight", f"{START}lm_head.modules_to_save.default.weight"]
    tensors = {**handmade.lora_tensors(), **dict.fromkeys(names, head)}
    adapter = opened(tmp_path / "equal", tensors, modules_to_save=["lm_head"])
    assert [saved.name for saved in adapter.saved] == ["lm_head.weight"]
    assert list(adapter.ignored) == names[:1]
    with pytest.raises(Unreadable, match="two versions of one"):
        opened(tmp_path / "other", {**tensors, names[0]: head + 1}, modules_to_save=["lm_head"])


@pytest.mark.parametrize(
    ("listed", "own"), [("norm", True), ("layernorm", True), ("lm_head", False), ("layers", True)]
)
def test_what_modules_to_save_names(listed: str, own: bool, tmp_path: Path) -> None:
    # peft/utils/other.py, _set_trainable: `key.endswith(target_key)`
    norm = "model.layers.0.input_layernorm.weight"
    tensors = {**handmade.lora_tensors(), f"{START}{norm}": handmade.noise(8)}
    (saved,) = opened(tmp_path, tensors, modules_to_save=[listed]).saved
    assert (saved.name, saved.own) == (norm, own)


def test_two_adapters_in_one_file(tmp_path: Path) -> None:
    tensors = {**handmade.renamed(called("one")), **handmade.renamed(called("two"))}
    with pytest.raises(Unreadable, match="several adapters: one, two"):
        opened(tmp_path, tensors)


def test_empty_tensors_of_zero_3(tmp_path: Path) -> None:
    lora = handmade.lora_tensors()
    tensors = {name: tensor[:0] if "lora_B" in name else tensor for name, tensor in lora.items()}
    with pytest.raises(Unreadable, match=r"4 tensors are empty: .*lora_B.*ZeRO-3"):
        opened(tmp_path, tensors)


def test_no_tensors(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="holds no tensors"):
        opened(tmp_path, {})


def test_pickle_only(tmp_path: Path) -> None:
    folder = handmade.adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(Unreadable, match=r"adapter_model\.bin is not read: .* no file of torch"):
        at.open(folder)


def test_no_weights(tmp_path: Path) -> None:
    folder = handmade.adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(Unreadable, match="no adapter_model"):
        at.open(folder)


def test_lfs_pointer_for_weights(tmp_path: Path) -> None:
    folder = handmade.adapter(tmp_path / "adapter")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    (folder / "adapter_model.safetensors").write_text(pointer)
    with pytest.raises(Unreadable, match=r"adapter_model\.safetensors: not a safetensors file"):
        at.open(folder)


def test_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match=r"known format \(.*peft.*\).*Found: nothing"):
        at.open(tmp_path)


def test_token_rows(tmp_path: Path) -> None:
    tensors = {**handmade.lora_tensors(), ROWS: handmade.noise(2, 8)}
    for wanted in ([5, 1], {"embed_tokens": [5, 1]}, {"model.embed_tokens": [5, 1]}):
        adapter = opened(tmp_path / str(wanted), tensors, trainable_token_indices=wanted)
        [rows] = adapter.rows
        assert (rows.target, rows.indices) == ("model.embed_tokens", (5, 1))


@pytest.mark.parametrize("wanted", [None, 5, ["a"], [True, 2], [-1, 2], {"wte": [1, 2]}], ids=str)
def test_token_rows_without_their_tokens(wanted: Any, tmp_path: Path) -> None:
    tensors = {**handmade.lora_tensors(), ROWS: handmade.noise(2, 8)}
    with pytest.raises(Unreadable, match="which tokens they are"):
        opened(tmp_path, tensors, trainable_token_indices=wanted)


@pytest.mark.parametrize("wanted", [[1], [1, 2, 3], [2, 2]], ids=str)
def test_token_rows_of_another_number(wanted: list[int], tmp_path: Path) -> None:
    tensors = {**handmade.lora_tensors(), ROWS: handmade.noise(2, 8)}
    with pytest.raises(Mismatch, match="holds 2 rows"):
        opened(tmp_path, tensors, trainable_token_indices=wanted)
