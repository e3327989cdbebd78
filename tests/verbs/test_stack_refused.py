"""What a stack refuses: one sentence that says what to do, exit code 1, and nothing written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from tests.cli import assert_refused, contents, run
from tests.tiny_llama import factors, linears, noise, read, save_lora, small

QUERY, VALUE = (f"model.layers.0.self_attn.{kind}_proj" for kind in "qv")
HEAD = "base_model.model.lm_head.weight"
ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


def lora(
    folder: Path, seed: int = 0, *, modules: tuple[str, ...] = (QUERY,), rank: int = 4,
    rows: int = 16, columns: int = 12, base: str = "tiny/base", **config: Any,
) -> Path:  # fmt: skip
    """Write a small random LoRA."""
    pairs = {
        module: (noise(rank, columns, seed=seed), noise(rows, rank, seed=seed + 1))
        for module in modules
    }
    return save_lora(folder, Path(base), pairs, **config)


def with_head(folder: Path, seed: int) -> Path:
    more = {HEAD: noise(7, 12, seed=seed)}
    return lora(folder, seed, more=more, modules_to_save=["lm_head"])


def with_rows(folder: Path, seed: int, tokens: list[int]) -> Path:
    more = {ROWS: noise(len(tokens), 12, seed=seed)}
    indices = {"embed_tokens": tokens}
    return lora(folder, seed, more=more, trainable_token_indices=indices)


def damaged(folder: Path, value: float) -> Path:
    pairs = {QUERY: (noise(4, 12, seed=1), torch.full((16, 4), value))}
    return save_lora(folder, Path("tiny/base"), pairs)


def dora(folder: Path) -> Path:
    name = f"base_model.model.{QUERY}.lora_magnitude_vector"
    return lora(folder, use_dora=True, more={name: noise(16, seed=3)})


def ia3(folder: Path) -> Path:
    more = {f"base_model.model.{QUERY}.ia3_l": noise(16, 1, seed=1)}
    return save_lora(folder / "b", Path("tiny/base"), {}, more=more, peft_type="IA3")


Setup = Callable[[Path], object]


def second(**config: Any) -> Setup:
    """A second adapter that differs from the first in its config or its sizes."""
    return lambda f: lora(f / "b", 5, **config)


# Name -> what is beside the adapter `a`, the arguments, words of the sentence.
REFUSED: dict[str, tuple[Setup, str, tuple[str, ...]]] = {
    "base": (second(base="other/model"), "a b", ("tiny/base", "other/model", "--base-check warn")),
    "base_owner": (second(base="else/base"), "a b", ("else/base",)),
    "revision": (
        lambda f: [lora(f / "b", revision="r1"), lora(f / "c", revision="r2")],
        "b c", ("revision r1", "r2"),
    ),
    "shapes": (second(rows=20), "a b", (QUERY, "16×12", "20×12")),
    "twice": (second(), "a=0.5 a=0.5", ("named twice", "sum of its weights")),
    "twice_spelled": (second(), "a ./a", ("named twice",)),
    "common": (second(modules=("transformer.h.0.q",)), "a b", ("nothing in common",)),
    "dora": (lambda f: dora(f / "b"), "a b", ("use_dora", "merge")),
    "kasa": (second(kasa_config={"x": 1}), "a b", ("kasa_config", "merge")),
    "pissa": (second(init_lora_weights="pissa"), "a b", ("path_initial_model",)),
    "olora": (second(init_lora_weights="olora"), "a b", ("path_initial_model",)),
    "loftq": (second(init_lora_weights="loftq"), "a b", ("LoftQ",)),
    "alora": (second(alora_invocation_tokens=[1]), "a b", ("aLoRA",)),
    "experts": (second(target_parameters=["x"]), "a b", ("x could be of any module", "--base")),
    "ia3": (ia3, "a b", ("of type IA3", "merge")),
    "nan": (lambda f: damaged(f / "b", float("nan")), "a b", ("NaN", "lora_B")),
    "infinite": (lambda f: damaged(f / "b", float("inf")), "a b=0.5", ("infinity",)),
    "weight_word": (second(), "a=x b", ("a=x", "no weight")),
    "weight_nan": (second(), "a=nan b", ("finite",)),
    "weight_infinite": (second(), "a=inf b", ("finite",)),
    "weight_missing": (second(), "a= b", ("no weight",)),
    "zero": (second(), "a=0 b=0", ("other than 0",)),
    "cancel": (lambda f: lora(f / "b"), "a=1 b=-1", ("cancel in every module",)),
    "limit": (second(), "a b --max-rank 3", ("rank 8", "3 -> ", "--allow-lossy")),
    "rank": (second(), "a b --rank much", ("much", "energy:0.99")),
    "rank_zero": (second(), "a b --rank 0", ("no rank",)),
    "energy": (second(), "a b --rank energy:1.5", ("energy:1.5",)),
    "saved": (
        lambda f: [with_head(f / "b", 1), with_head(f / "c", 2)],
        "b=0.5 c=0.5", ("lm_head.weight", "from=ADAPTER", "mean"),
    ),
    "saved_part": (lambda f: with_head(f / "b", 1), "a b=0.5", ("lm_head.weight", "0.5 times")),
    "saved_adapted": (
        lambda f: [with_head(f / "b", 1), lora(f / "c", modules=("lm_head",), rows=7)],
        "b c", ("lm_head", "adapted by another"),
    ),
    "saved_unknown": (
        lambda f: [with_head(f / "b", 1), with_head(f / "c", 2)],
        "b c --modules-to-save from=z", ("z names none",),
    ),
    "rows": (
        lambda f: [with_rows(f / "b", 1, [3, 4]), with_rows(f / "c", 2, [4, 9])],
        "b c", ("embed_tokens[4]", "from=ADAPTER"),
    ),
    "pattern": (second(), "a b --weight *=x", ("--weight *=x",)),
    "pattern_adapter": (second(), "a b --weight z@*=1", ("z names none",)),
    "pattern_range": (second(), "a b --weight a@{9-1}=1", ("range",)),
    "odd": (
        second(more={f"base_model.model.{QUERY}.lora_C.weight": noise(4, 4, seed=1)}),
        "a b", ("lora_C",),
    ),
    "half": (
        second(more={f"base_model.model.{VALUE}.lora_A.weight": noise(4, 4, seed=1)}),
        "a b", ("no lora_B",),
    ),
    "overflow": (lambda f: damaged(f / "b", 1e12), "a b --dtype float16", ("float16", "float32")),
    "dtype": (second(), "a b --dtype int8", ("int8",)),
    "replication": (second(layer_replication=[[0, 1]]), "a b", ("layer_replication",)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_sentence_and_nothing_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, args, words = REFUSED[name]
    lora(tmp_path / "a")
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert_refused(run("stack", *args.split(), "--out", "out"), *words)
    assert contents(tmp_path) == before


def test_existing_output_and_inputs_are_never_written_to(tmp_path: Path) -> None:
    lora(tmp_path / "a")
    for out in (tmp_path / "a", tmp_path / "a" / "below", tmp_path):
        before = contents(tmp_path)
        assert_refused(run("stack", tmp_path / "a", "--out", out), "Choose")
        assert contents(tmp_path) == before
    (tmp_path / "out.partial").mkdir()
    assert_refused(run("stack", tmp_path / "a", "--out", tmp_path / "out"), "earlier run")


def test_bases_that_are_one_under_two_names(tmp_path: Path) -> None:
    pairs = (
        ("gpt2", "openai-community/gpt2"),
        ("meta-llama/Meta-Llama-3.1-8B", "unsloth/Llama-3.1-8B-bnb-4bit"),
        ("/models/base", "tiny/base"),
        ("Tiny/Base", "tiny/base-GPTQ-Int4"),
    )
    for at_, (one, two) in enumerate(pairs):
        a, b = lora(tmp_path / f"a{at_}", base=one), lora(tmp_path / f"b{at_}", 1, base=two)
        report = at.stack([a, b], out=tmp_path / f"out{at_}")
        assert [f.code for f in report.findings] == ["STK002"]
    config = json.loads((tmp_path / "out1" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == pairs[1][0], "the packed one is no place to train"


@pytest.mark.parametrize("name", ["base", "revision", "common"])
def test_base_check_can_warn_or_be_silent(name: str, tmp_path: Path) -> None:
    prepare, args, _ = REFUSED[name]
    lora(tmp_path / "a")
    prepare(tmp_path)
    adapters = [tmp_path / each for each in args.split()]
    warned = at.stack(adapters, out=tmp_path / "warned", base_check="warn")
    assert [(f.code, f.level) for f in warned.findings] == [("STK001", "warning")]
    assert at.stack(adapters, out=tmp_path / "silent", base_check="off").findings == ()


def test_a_chain_adds_up_where_the_first_has_the_weight_it_was_merged_with(tmp_path: Path) -> None:
    base, one = small(tmp_path)
    at.merge(one, base=base, out=tmp_path / "merged", scale=0.5)
    pairs = factors(read(base), linears(read(base)), seed=1)
    two = save_lora(tmp_path / "two", tmp_path / "merged", pairs)
    report = at.stack([one, two], weights=[0.5, 2.0], out=tmp_path / "out")
    assert report.findings == ()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    done = run("stack", f"{one}=1.0", two, "--out", tmp_path / "no")
    assert_refused(done, "merged in at 0.5", "Give it 0.5")
    third = save_lora(tmp_path / "three", base, pairs)
    done = run("stack", third, two, "--out", tmp_path / "no")
    assert_refused(done, "with", "merged in", "not in the stack")
    assert not (tmp_path / "no").exists()
    warned = at.stack([one, two], out=tmp_path / "warned", base_check="warn")
    assert [f.code for f in warned.findings] == ["STK001"]
