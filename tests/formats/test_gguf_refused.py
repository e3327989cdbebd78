"""What cannot be written or read is refused in one sentence, and nothing else happens."""

import random
import struct
from pathlib import Path
from typing import Any

import pytest

from adaptertools.errors import AdapterToolsError, Mismatch, NotFound, Unreadable, Unsupported
from adaptertools.formats import _gguf_file, gguf
from adaptertools.formats._gguf_write import _info, _text, _value
from adaptertools.verbs.open import open_adapter
from tests.formats.gguf_files import EXPERTS, adapter, base, shapes, written
from tests.formats.test_gguf import base_gguf

Q = "model.layers.0.self_attn.q_proj"


def whole(folder: Path, kind: str = "llama") -> bytes:
    """Write a sound file and give its bytes."""
    written(adapter(folder / "a", shapes(kind)), folder / "out", base(folder / "b", kind))
    return (folder / "out" / gguf.NAME).read_bytes()


def made(path: Path, keys: dict[str, Any], infos: list[bytes], data: int = 4096) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys))
    head += b"".join(_text(k) + _value(v) for k, v in keys.items()) + b"".join(infos)
    path.write_bytes(head + b"\0" * (-len(head) % 32 + data))
    return path


KEYS = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "qwen2"}
A = _info("blk.0.attn_q.weight.lora_a", "F32", (2, 8), 0)
B = _info("blk.0.attn_q.weight.lora_b", "F32", (8, 2), 64)


@pytest.mark.parametrize(
    ("keys", "infos", "error", "words"),
    [
        ({"general.type": "model"}, [A, B], Unsupported, "an adapter was expected"),
        ({"adapter.type": "control"}, [A, B], Unsupported, "not lora"),
        ({"general.architecture": "falcon"}, [A, B], Unsupported, "falcon is not known"),
        ({"general.architecture": "llama"}, [A, B], Unsupported, "Pass --base"),
        ({"general.alignment": 3}, [A, B], Unreadable, "alignment"),
        ({"adapter.lora.alpha": "8"}, [A, B], Unreadable, "alpha"),
        ({}, [], Unreadable, "holds no LoRA"),
        ({}, [A], Unreadable, "has no lora_b"),
        ({}, [A, A, B], Unreadable, "twice"),
        ({}, [A, B, _info("blk.0.attn_q.weight", "F32", (8, 8), 0)], Unreadable, "no tensor of"),
        ({}, [A, _info("blk.0.attn_q.weight.lora_b", "F32", (8, 3), 0)], Mismatch, "do not fit"),
        ({}, [_info("blk.0.attn_q.weight.lora_a", "F32", (2, 9999), 0), B], Unreadable, "beyond"),
        ({}, [_info("blk.0.nothing.weight.lora_a", "F32", (2, 8), 0),
              _info("blk.0.nothing.weight.lora_b", "F32", (8, 2), 0)], Mismatch, "no such weight"),
        ({}, [A, B.replace(struct.pack("<I", 0) + struct.pack("<Q", 64),
                           struct.pack("<IQ", 2, 64))], Unsupported, "quantised in a way"),
        ({}, [A, _info("blk.0.attn_q.weight.lora_b", "F32", (8, 0), 0)], Unreadable, "shape"),
    ],
)  # fmt: skip
def test_files(
    keys: dict[str, Any], infos: list[bytes], error: type[Exception], words: str, tmp_path: Path
) -> None:
    made(tmp_path / "x.gguf", KEYS | keys, infos)
    with pytest.raises(error, match=words):
        open_adapter(tmp_path)


def test_a_size_that_nothing_vouches_for(tmp_path: Path) -> None:
    """2^40 experts in a quantisation of unknown size are refused before any is named."""
    infos = [
        _info(f"blk.0.ffn_up_exps.weight.lora_{side}", "F32", (2**40, 8, 8), 0)[:-12]
        + struct.pack("<IQ", 2, 0)
        for side in "ab"
    ]
    made(tmp_path / "x.gguf", KEYS | {"general.architecture": "qwen3moe"}, infos)
    with pytest.raises(Unsupported, match="quantised in a way"):
        open_adapter(tmp_path)


def test_norms_are_left_out_as_llama_cpp_leaves_them_out(tmp_path: Path) -> None:
    norm = _info("blk.0.attn_norm.weight", "F32", (8,), 128)
    made(tmp_path / "x.gguf", KEYS, [A, B, norm])
    read = open_adapter(tmp_path)
    assert list(read.ignored) == ["blk.0.attn_norm.weight"]
    assert [(e.target, e.scale) for e in read.entries] == [(Q, 1.0)]


def test_two_files_in_a_folder(tmp_path: Path) -> None:
    for name in "xy":
        made(tmp_path / f"{name}.gguf", KEYS, [A, B])
    with pytest.raises(Unreadable, match=r"2 GGUF files: x.gguf, y.gguf"):
        open_adapter(tmp_path)
    assert gguf.read(tmp_path / "x.gguf", "x").rank == 2


def test_heads_may_come_from_the_base(tmp_path: Path) -> None:
    path = made(tmp_path / "x.gguf", KEYS | {"general.architecture": "llama"}, [A, B])
    assert gguf.read(path, "x", base(tmp_path / "b")).rank == 2
    with pytest.raises(Mismatch, match="is for the architecture llama"):
        gguf.read(path, "x", base(tmp_path / "c", "qwen2"))
    with pytest.raises(Mismatch, match="not 3 attention heads"):
        gguf.read(path, "x", base(tmp_path / "d", num_attention_heads=3))


def test_damage_is_never_a_crash(tmp_path: Path) -> None:
    data = whole(tmp_path, "qwen2")
    path, dice, refused = tmp_path / "x.gguf", random.Random(1), 0
    head = data.index(b"lora_b", data.rindex(b"blk.")) + 60
    cuts = [data[:at] for at in range(0, head, 7)]
    flips = [bytearray(data) for _ in range(300)]
    for flip in flips:
        flip[dice.randrange(head)] ^= 1 << dice.randrange(8)
    for bad in [*cuts, *map(bytes, flips)]:
        path.write_bytes(bad)
        try:
            gguf.read(path, "x")
        except AdapterToolsError as error:
            refused += str(error).isprintable()
    assert refused >= len(cuts) + 100


@pytest.mark.parametrize(
    ("modules", "more", "error", "words"),
    [
        ({"lm_head": (40, 32)}, {"tie_word_embeddings": True}, Unsupported, "would not load"),
        ({"model.embed_tokens": (40, 32)}, {"tie_word_embeddings": True}, Unsupported, "aborts"),
        ({"model.layers.2.mlp.up_proj": (48, 32)}, {}, Mismatch, "has 2 layers"),
        ({"model.layers.0.mlp.experts.3.up_proj": (48, 32)}, {}, Mismatch, f"has {EXPERTS} expert"),
        ({"model.layers.0.self_attn.qkv_proj": (64, 32)}, {}, Mismatch, "no weight of this module"),
        ({"score": (2, 32)}, {}, Mismatch, "no weight of this module"),
        ({Q: (30, 32)}, {}, Mismatch, "not 4 attention heads"),
        ({Q: (32, 32)}, {"model_type": "falcon"}, Unsupported, "model_type falcon"),
        ({Q: (32, 32)}, {"num_attention_heads": None}, Unsupported, "Pass --base"),
        ({Q: (32, 32), "layers.0.self_attn.q_proj": (32, 32)}, {}, Unsupported, "are both"),
        ({"model.layers.0.mlp.experts.1.up_proj": (48, 32)}, {"num_local_experts": None},
         Unsupported, "how many experts"),
        ({"model.layers.0.mlp.experts.1.up_proj": (48, 32),
          "model.layers.0.mlp.experts.2.up_proj": (44, 32)}, {}, Unsupported, "differ in shape"),
    ],
)  # fmt: skip
def test_adapters(
    modules: dict[str, tuple[int, int]], more: dict[str, Any], error: type[Exception], words: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    source = adapter(tmp_path / "a", modules)
    with pytest.raises(error, match=words):
        written(source, tmp_path / "out", base(tmp_path / "b", **more))
    assert not (tmp_path / "out" / gguf.NAME).exists()


def test_bases(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", {Q: (32, 32)})
    with pytest.raises(Unsupported, match="Pass --base"):
        written(source, tmp_path / "1", None)
    with pytest.raises(NotFound, match=r"config.json"):
        written(source, tmp_path / "2", tmp_path / "a")
    with pytest.raises(NotFound, match="no such file"):
        written(source, tmp_path / "3", None, base_gguf=str(tmp_path / "none"))
    with pytest.raises(Unsupported, match="Architecture falcon"):
        written(source, tmp_path / "4", base(tmp_path / "b"), arch="falcon")
    llama = base_gguf(tmp_path / "l.gguf", {Q: (32, 16)})
    with pytest.raises(Mismatch, match="the weight of"):
        written(source, tmp_path / "5", None, base_gguf=str(llama))
    with pytest.raises(Mismatch, match="two files of one model"):
        written(source, tmp_path / "6", base(tmp_path / "c", "qwen2"), base_gguf=str(llama))
    other = adapter(tmp_path / "o", {"model.layers.1.mlp.up_proj": (48, 32)})
    with pytest.raises(Mismatch, match=r"has no blk.1.ffn_up"):
        written(other, tmp_path / "7", None, base_gguf=str(llama))
    path = made(tmp_path / "x.gguf", KEYS, [A, B])
    with pytest.raises(Mismatch, match="is no model"):
        written(source, tmp_path / "8", None, base_gguf=str(path))
    with pytest.raises(Unsupported, match="hold F32, F16"):
        written(source, tmp_path / "9", base(tmp_path / "d"), dtype="F64")
    with pytest.raises(Unsupported, match="no option heads"):
        written(source, tmp_path / "11", base(tmp_path / "e"), heads="3")
    with pytest.raises(Unsupported, match="--rank 2"):
        written(source, tmp_path / "12", base(tmp_path / "f"), rank=2)


def test_a_name_that_ggml_cannot_hold() -> None:
    with pytest.raises(Unsupported, match="63 bytes"):
        _info("x" * 64, "F32", (1,), 0)
    assert _gguf_file.KINDS[8] == ("Q8_0", 32, 34)
