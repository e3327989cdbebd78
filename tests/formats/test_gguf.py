"""What the gguf package reads in our files, and what we read back, is what PEFT's adapter says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptertools import tensorfile
from adaptertools.adapter import Adapter
from adaptertools.formats import Ask, gguf
from adaptertools.verbs.open import open_adapter
from tests.formats.gguf_files import ENDS, HEADS, KV, MODELS, adapter, base, shapes, written

official = pytest.importorskip("gguf", reason="the gguf package, llama.cpp's own reader")


def arrays(source: Adapter) -> dict[tuple[str, str], Any]:
    return {(e.target, role): tensorfile.read(spec).astype("float64")
            for e in source.entries for role, spec in e.parts.items()}  # fmt: skip


def same(one: Adapter, two: Adapter) -> None:
    """Hold two adapters for equal, tensor by tensor, bit for bit, and scale by scale."""
    assert {s.name: (s.dtype, s.shape) for s in one.tensors.values()} == {
        s.name: (s.dtype, s.shape) for s in two.tensors.values()
    }
    left, right = arrays(one), arrays(two)
    assert left.keys() == right.keys()
    assert all((left[name] == right[name]).all() for name in left)
    scales = {e.target: e.scale for e in two.entries}
    for entry in one.entries:
        assert scales[entry.target] == pytest.approx(entry.scale, rel=1e-7)


def seen(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let llama.cpp's package read a file."""
    reader = official.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    held = {t.name: official.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        held[tensor.name] = held[tensor.name].reshape(shape)
    return keys, held


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", MODELS)
def test_round_trip(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", shapes(kind, ends=kind in ("llama", "qwen2")), dtype)
    wrote = written(source, tmp_path / "out", base(tmp_path / "base", kind))
    assert (wrote.error, wrote.folded, wrote.padded) == (0, [], [])
    read = open_adapter(tmp_path / "out")
    same(source, read)
    assert (read.format, read.method, read.base) == ("gguf", "LORA", "some/base")
    if kind != "mixtral":  # an expert of that name is to be adapted, and no other
        assert read.config["target_modules"] == source.config["target_modules"]


def test_the_official_reader_sees_what_it_needs(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", shapes("llama", ends=True))
    wrote = written(source, tmp_path / "out", base(tmp_path / "base"))
    keys, held = seen(tmp_path / "out" / gguf.NAME)
    assert keys["general.type"] == "adapter"
    assert keys["adapter.type"] == "lora"
    assert keys["general.architecture"] == "llama"
    assert keys["adapter.lora.alpha"] == 8.0
    assert len(held) == wrote.tensors == 2 * len(source.entries)
    own = arrays(source)
    assert (held["blk.1.attn_v.weight.lora_b"]
            == own["model.layers.1.self_attn.v_proj", "lora_B"]).all()  # fmt: skip
    embedded = own["model.embed_tokens", "lora_embedding_A"]
    assert (held["token_embd.weight.lora_a"] == embedded.T).all()
    assert sum(values.nbytes for values in held.values()) == wrote.nbytes


@pytest.mark.parametrize("heads", [HEADS, KV])
def test_rows_of_q_and_k_turn_as_transformers_turns_them(heads: int) -> None:
    """Neighbours rotated as complex numbers give the products of halves rotated by transformers."""
    rotary = pytest.importorskip("transformers.models.llama.modeling_llama")
    size, steps = 8, 5
    rng = np.random.default_rng(3)
    rows, inputs = rng.normal(size=(heads * size, 6)), rng.normal(size=(6, steps))
    angles = np.outer(np.arange(steps), 10000.0 ** (-np.arange(0, size, 2) / size))
    both = torch.tensor(np.concatenate([angles, angles], axis=1))[None]
    held = torch.tensor(rows @ inputs).reshape(1, heads, size, steps).swapaxes(2, 3)
    theirs, _ = rotary.apply_rotary_pos_emb(held, held, both.cos(), both.sin())
    turned = gguf.interleaved(rows, heads, "q") @ inputs
    pairs = turned.reshape(heads, size, steps).swapaxes(1, 2).copy().view(complex)
    ours = pairs * np.exp(1j * angles)
    want = torch.einsum("bhsd,bhtd->hst", theirs, theirs).numpy()
    assert np.allclose(np.einsum("hsd,htd->hst", ours, ours.conj()).real, want)
    assert (gguf.interleaved(gguf.interleaved(rows, heads, "q"), heads, "q", back=True)
            == rows).all()  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {"use_rslora": True},
        {"alpha_pattern": {"k_proj": 5, "layers.1.mlp.up_proj": 16}},
        {"use_rslora": True, "alpha_pattern": {"down_proj": 3}},
        {"lora_alpha": 0},
        {"lora_alpha": -4},
    ],
)  # fmt: skip
def test_what_llama_cpp_computes_is_what_peft_computes(
    more: dict[str, Any], tmp_path: Path
) -> None:
    """Its scale is alpha / r of each tensor, and 1 for an alpha of 0: src/llama-adapter.h."""
    odd = {"model.layers.0.self_attn.v_proj": 2, "model.layers.1.self_attn.q_proj": 7}
    source = adapter(tmp_path / "a", shapes("qwen2"), ranks=odd, **more)
    wrote = written(source, tmp_path / "out", base(tmp_path / "base", "qwen2"))
    keys, held = seen(tmp_path / "out" / gguf.NAME)
    own, alpha = arrays(source), keys["adapter.lora.alpha"]
    for entry in source.entries:
        name = gguf._gguf_names.place(gguf._gguf_names.arch("qwen2"), entry.target).name
        down, up = (held[f"{name}.lora_{side}"].astype("float64") for side in "ab")
        ours = (alpha / up.shape[-1] if alpha else 1.0) * up @ down
        want = entry.scale * own[entry.target, "lora_B"] @ own[entry.target, "lora_A"]
        assert np.abs(ours - want).max() <= 3e-7 * max(np.abs(want).max(), 1e-30)
    assert ("alpha_pattern" in more) <= bool(wrote.folded)
    again = open_adapter(tmp_path / "out")
    assert {e.target: e.rank for e in again.entries} == {e.target: e.rank for e in source.entries}


def test_experts_that_are_missing_or_smaller_are_filled_with_zeros(tmp_path: Path) -> None:
    modules = shapes("mixtral")
    gone, small = (f"model.layers.{i}.block_sparse_moe.experts.1.w1" for i in (0, 1))
    source = adapter(tmp_path / "a", {n: s for n, s in modules.items() if n != gone},
                     ranks={small: 2})  # fmt: skip
    wrote = written(source, tmp_path / "out", base(tmp_path / "base", "mixtral"))
    assert wrote.padded == [small]
    assert [f.code for f in wrote.findings] == ["CNV101"]
    read = {e.target: e for e in open_adapter(tmp_path / "out").entries}
    assert not tensorfile.read(read[gone].parts["lora_B"]).any()
    own, back = arrays(source), arrays(open_adapter(tmp_path / "out"))
    entry = next(e for e in source.entries if e.target == small)
    want = entry.scale * own[small, "lora_B"] @ own[small, "lora_A"]
    ours = read[small].scale * back[small, "lora_B"] @ back[small, "lora_A"]
    assert np.abs(ours - want).max() <= 3e-7 * np.abs(want).max()


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "BF16", "F32"])
def test_dtypes_are_the_official_ones(kind: str, tmp_path: Path) -> None:
    big = {"model.layers.0.self_attn.o_proj": (32, 64)}
    source = adapter(tmp_path / "a", big)
    wrote = written(source, tmp_path / "out", base(tmp_path / "base", "qwen2"), dtype=kind)
    reader = official.GGUFReader(tmp_path / "out" / gguf.NAME)
    down = next(t for t in reader.tensors if t.name.endswith("lora_a"))
    number = official.GGMLQuantizationType[kind]
    assert down.tensor_type == number
    want = arrays(source)["model.layers.0.self_attn.o_proj", "lora_A"].astype("float32")
    assert down.data.tobytes() == official.quants.quantize(want, number).tobytes()
    read = open_adapter(tmp_path / "out")
    assert (arrays(read)["model.layers.0.self_attn.o_proj", "lora_A"]
            == official.quants.dequantize(down.data, number)).all()  # fmt: skip
    assert (wrote.error == 0) == (kind == "F32")
    assert wrote.error < 0.01


def test_the_base_s_own_gguf_says_the_same(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", shapes("llama") | ENDS)
    written(source, tmp_path / "one", base(tmp_path / "base"))
    model = base_gguf(tmp_path / "base.gguf", shapes("llama") | ENDS)
    written(source, tmp_path / "two", None, base_gguf=str(model))
    written(source, tmp_path / "three", model)
    one, *others = (tmp_path / name / gguf.NAME for name in ("one", "two", "three"))
    assert {one.read_bytes()} == {other.read_bytes() for other in others}


def test_a_bare_model_has_the_same_tensors(tmp_path: Path) -> None:
    modules = shapes("qwen2")
    bare = {name.removeprefix("model."): shape for name, shape in modules.items()}
    where = base(tmp_path / "base", "qwen2")
    written(adapter(tmp_path / "a", modules), tmp_path / "one", where)
    wrote = written(adapter(tmp_path / "b", bare), tmp_path / "two", where)
    one, two = (tmp_path / name / gguf.NAME for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert [f.code for f in wrote.findings] == ["CNV103"]


def test_a_model_under_another_name(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", shapes("llama"))
    written(source, tmp_path / "out", base(tmp_path / "base", "my_own"), arch="llama")
    same(source, open_adapter(tmp_path / "out"))


def test_ranks_grow_by_zeros(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", shapes("llama"))
    wrote = written(source, tmp_path / "out", base(tmp_path / "base"), rank=6)
    assert wrote.padded == [e.target for e in source.entries]
    assert (wrote.error, wrote.folded) == (0, [])
    read, own = open_adapter(tmp_path / "out"), arrays(source)
    assert {(e.rank, e.scale) for e in read.entries} == {(6, 2.0)}
    for (target, role), values in arrays(read).items():
        kept, rest = np.split(values, [4], axis=0 if role == "lora_A" else 1)
        assert (kept == own[target, role]).all()
        assert not rest.any()


def base_gguf(path: Path, modules: dict[str, tuple[int, int]], arch: str = "llama") -> Path:
    """Let the official writer make a base that has these weights, all zero."""
    writer = official.GGUFWriter(path, arch)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_block_count(2)
    writer.add_token_list(["a", "b"])
    mapping = official.get_tensor_name_map(official.MODEL_ARCH[arch.upper()], 2)
    for name, shape in modules.items():
        writer.add_tensor(mapping.get_name(name) + ".weight", np.zeros(shape, "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_base_that_has_q_k_and_v_in_one(tmp_path: Path) -> None:
    """Its LoRA, times alpha over the rank that llama.cpp sees, is each part's own in its rows."""
    q, v = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
    source = adapter(tmp_path / "a", {q: (32, 32), v: (16, 32)}, ranks={v: 3})
    model = tmp_path / "base.gguf"
    writer = official.GGUFWriter(model, "qwen2")
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_tensor("blk.0.attn_qkv.weight", np.zeros((64, 32), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    written(source, tmp_path / "out", None, base_gguf=str(model))
    keys, held = seen(tmp_path / "out" / gguf.NAME)
    down, up = (held[f"blk.0.attn_qkv.weight.lora_{side}"].astype("float64") for side in "ab")
    assert len(down) == 7
    ours, own = keys["adapter.lora.alpha"] / 7 * up @ down, arrays(source)
    parts = {e.target: e.scale * own[e.target, "lora_B"] @ own[e.target, "lora_A"]
             for e in source.entries}  # fmt: skip
    want = np.concatenate([parts[q], np.zeros((16, 32)), parts[v]])
    assert np.abs(ours - want).max() <= 3e-7 * np.abs(want).max()


def test_an_activated_lora_says_when_it_begins(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", shapes("qwen2"), alora_invocation_tokens=[3, 1, 2])
    wrote = gguf.write(source, tmp_path, Ask(base=base(tmp_path / "base", "qwen2")))
    assert seen(tmp_path / gguf.NAME)[0]["adapter.alora.invocation_tokens"] == [3, 1, 2]
    assert [f.code for f in wrote.findings] == ["CNV102"]
    assert gguf.read(tmp_path, "x").config["alora_invocation_tokens"] == [3, 1, 2]
