"""Tensors that adapters save whole: one copy, the exact sum where there is one, or a choice."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from adaptertools.verbs import _stack_whole
from tests.tiny_llama import noise, read, save_lora

QUERY = "model.layers.0.self_attn.q_proj"
HEAD, BIAS = "base_model.model.lm_head.weight", f"base_model.model.{QUERY}.base_layer.bias"
EMBEDDING = "base_model.model.model.embed_tokens.base_layer.weight"
ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


def lora(folder: Path, seed: int, more: dict[str, torch.Tensor], **config: Any) -> Path:
    pairs = {QUERY: (noise(2, 8, seed=seed), noise(6, 2, seed=seed + 1))}
    return save_lora(folder, Path("tiny/base"), pairs, more=more, **config)


def heads(folder: Path, *seeds: int, dtype: torch.dtype = torch.float32) -> list[Path]:
    """Adapters that saved a head, random by its seed."""
    return [
        lora(folder / str(i), i, {HEAD: noise(5, 8, seed=n).to(dtype)}, modules_to_save=["lm_head"])
        for i, n in enumerate(seeds)
    ]  # fmt: skip


def config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "adapter_config.json").read_text()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equal_copies_are_one(dtype: torch.dtype, tmp_path: Path) -> None:
    held = heads(tmp_path, 7, 7, dtype=dtype)
    at.stack(held, weights=[0.25, 0.75], out=tmp_path / "out")
    kept = read(tmp_path / "out")[HEAD]
    assert kept.dtype == dtype
    assert torch.equal(kept, read(held[0])[HEAD])
    assert config(tmp_path / "out")["modules_to_save"] == ["lm_head"]


def test_a_copy_of_one_adapter_needs_weight_one(tmp_path: Path) -> None:
    (one,), two = heads(tmp_path / "a", 7), lora(tmp_path / "b", 3, {})
    at.stack([one, two], weights=[1.0, 0.3], out=tmp_path / "out")
    assert torch.equal(read(tmp_path / "out")[HEAD], read(one)[HEAD])
    with pytest.raises(at.errors.Unsupported, match=r"0\.5 times the way"):
        at.stack([one, two], weights=[0.5, 0.3], out=tmp_path / "no")
    at.stack([one, two], weights=[0.5, 0.3], out=tmp_path / "whole", modules_to_save=f"from={one}")
    assert torch.equal(read(tmp_path / "whole")[HEAD], read(one)[HEAD])


def test_a_mean_goes_by_weight_and_a_choice_takes_one(tmp_path: Path) -> None:
    held = heads(tmp_path, 1, 2)
    a, b = (read(folder)[HEAD].double() for folder in held)
    for weights in ([0.7, 0.3], [2.0, 1.0]):
        out = tmp_path / f"mean{weights[0]}"
        at.stack(held, weights=weights, out=out, modules_to_save="mean")
        mean = (weights[0] * a + weights[1] * b) / sum(weights)
        assert torch.equal(read(out)[HEAD], mean.float())
    at.stack(held, out=tmp_path / "second", modules_to_save=f"from={held[1].name}")
    assert torch.equal(read(tmp_path / "second")[HEAD], b.float())
    card = (tmp_path / "second" / "README.md").read_text()
    assert f"`{HEAD}` is that of {held[1].name}" in card
    with pytest.raises(at.errors.Unsupported, match="no mean"):
        at.stack(held, weights=[1, -1], out=tmp_path / "no", modules_to_save="mean")


def test_large_tensors_are_taken_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = heads(tmp_path, 1, 2)
    at.stack(held, weights=[0.7, 0.3], out=tmp_path / "whole", modules_to_save="mean")
    monkeypatch.setattr(_stack_whole, "_PIECE", 16)  # two rows of the five
    at.stack(held, weights=[0.7, 0.3], out=tmp_path / "pieces", modules_to_save="mean")
    at.stack(held, out=tmp_path / "one", modules_to_save=f"from={held[0]}")
    pieces = read(tmp_path / "pieces")[HEAD]
    assert torch.equal(pieces, read(tmp_path / "whole")[HEAD])
    assert torch.equal(read(tmp_path / "one")[HEAD], read(held[0])[HEAD])


def test_sizes_that_differ_are_never_mixed(tmp_path: Path) -> None:
    one, two = (
        lora(tmp_path / n, 1, {HEAD: noise(rows, 8, seed=1)}, modules_to_save=["lm_head"])
        for n, rows in (("a", 5), ("b", 6))
    )
    with pytest.raises(at.errors.Mismatch, match=r"\[5, 8\].*\[6, 8\]"):
        at.stack([one, two], out=tmp_path / "out", modules_to_save="mean")


def test_trained_biases_sum_where_the_base_cancels(tmp_path: Path) -> None:
    held = [
        lora(tmp_path / f"{seed}", seed, {BIAS: noise(6, seed=seed)}, bias="lora_only")
        for seed in (1, 2)
    ]
    a, b = (read(folder)[BIAS].double() for folder in held)
    at.stack(held, weights=[1.7, -0.7], out=tmp_path / "out")
    assert torch.equal(read(tmp_path / "out")[BIAS], (1.7 * a - 0.7 * b).float())
    assert config(tmp_path / "out")["bias"] == "lora_only"
    with pytest.raises(at.errors.Unsupported, match="bias"):
        at.stack(held, weights=[1.0, 0.7], out=tmp_path / "no")


def test_the_bases_own_embeddings_come_along_once(tmp_path: Path) -> None:
    def resized(folder: Path, seed: int) -> Path:
        name = "base_model.model.model.embed_tokens.lora_embedding_"
        more = {EMBEDDING: noise(9, 8, seed=5), f"{name}A": noise(2, 9, seed=seed),
                f"{name}B": noise(8, 2, seed=seed + 1)}  # fmt: skip
        return lora(folder, seed, more, target_modules=["q_proj", "embed_tokens"])

    held = [resized(tmp_path / "a", 1), resized(tmp_path / "b", 2)]
    at.stack(held, weights=[0.5, -0.2], out=tmp_path / "out")
    assert torch.equal(read(tmp_path / "out")[EMBEDDING], noise(9, 8, seed=5))


def rows(folder: Path, seed: int, tokens: list[int], listed: bool = False) -> Path:
    said: Any = tokens if listed else {"embed_tokens": tokens}
    return lora(
        folder, seed, {ROWS: noise(len(tokens), 8, seed=seed)}, trainable_token_indices=said
    )


def test_token_rows_join_in_the_order_of_tokens(tmp_path: Path) -> None:
    one, two = rows(tmp_path / "a", 1, [9, 4]), rows(tmp_path / "b", 2, [7])
    at.stack([one, two], out=tmp_path / "out")
    made, a, b = (read(folder)[ROWS] for folder in (tmp_path / "out", one, two))
    assert torch.equal(made, torch.stack([a[1], b[0], a[0]]))
    said = config(tmp_path / "out")["trainable_token_indices"]
    assert said == {"model.embed_tokens": [4, 7, 9]}
    assert at.open(tmp_path / "out").rows[0].indices == (4, 7, 9)


def test_the_same_token_row_twice_needs_a_choice(tmp_path: Path) -> None:
    one, two = rows(tmp_path / "a", 1, [4, 9], True), rows(tmp_path / "b", 2, [4], True)
    weights = [0.75, 0.25]
    with pytest.raises(at.errors.Unsupported, match=r"embed_tokens\[4\] is saved whole by"):
        at.stack([one, two], weights=weights, out=tmp_path / "no")
    at.stack([one, two], weights=weights, out=tmp_path / "out", modules_to_save="mean")
    made, a, b = (read(folder)[ROWS] for folder in (tmp_path / "out", one, two))
    assert torch.equal(made[0], (0.75 * a[0].double() + 0.25 * b[0].double()).float())
    assert torch.equal(made[1], a[1])
    assert config(tmp_path / "out")["trainable_token_indices"] == [4, 9]


def test_what_is_not_needed_and_tokenizers_are_told(tmp_path: Path) -> None:
    one, two = lora(tmp_path / "a", 1, {}), lora(tmp_path / "b", 2, {})
    (one / "tokenizer.json").write_text("{}")
    (two / "tokenizer.json").write_text('{"other": 1}')
    report = at.stack([one, two], out=tmp_path / "out")
    assert [f.code for f in report.findings] == ["STK005"]
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
