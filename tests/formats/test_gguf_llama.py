"""llama.cpp itself: with our file it computes what PEFT computes. Through llama-cpp-python.

Bases are written with the gguf package by the rules of llama.cpp's converter, not by our own code.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptertools.verbs.convert import convert
from tests.formats.gguf_bases import KINDS, LINEAR, model, write

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of transformers' and PEFT's own making
]
pytest.importorskip("gguf", reason="the gguf package, llama.cpp's own")
peft = pytest.importorskip("peft", reason="the oracle of what an adapter does")

TOKENS = [1, 5, 9, 33, 70, 2, 8]

# A decode that fails aborts the process, so it has one of its own.
RUN = """
import ctypes, sys
import numpy as np
import llama_cpp as L
silent = L.llama_log_callback(lambda level, text, data: None)
L.llama_log_set(silent, None)
base, lora, out, *tokens = sys.argv[1:]
how = L.llama_model_default_params()
how.n_gpu_layers, how.use_mmap = 0, False
model = L.llama_model_load_from_file(base.encode(), how)
how = L.llama_context_default_params()
how.n_ctx = how.n_batch = 64
how.n_threads = how.n_threads_batch = 1
how.flash_attn_type = how.type_k = how.type_v = 0
context = L.llama_init_from_model(model, how)
if lora:
    adapter = L.llama_adapter_lora_init(model, lora.encode())
    assert adapter, "llama.cpp does not load the adapter"
    many = (L.llama_adapter_lora_p_ctypes * 1)(adapter)
    assert L.llama_set_adapters_lora(context, many, 1, (ctypes.c_float * 1)(1.0)) == 0
batch = L.llama_batch_init(64, 0, 1)
batch.n_tokens = len(tokens)
for i, token in enumerate(tokens):
    batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), i, 1
    batch.seq_id[i][0], batch.logits[i] = 0, 1
assert L.llama_decode(context, batch) == 0
count = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
np.save(out, np.stack([np.ctypeslib.as_array(L.llama_get_logits_ith(context, i), (count,))
                       for i in range(len(tokens))]))
"""


def llama_cpp(folder: Path, base: Path, lora: Path | None) -> Any:
    out = folder / "logits.npy"
    line = [sys.executable, "-c", RUN, str(base), str(lora or ""), str(out), *map(str, TOKENS)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True, "target_modules": [*LINEAR, "embed_tokens", "lm_head"]}),
        ("llama", {"alpha_pattern": {"k_proj": 5, "layers.1.mlp.up_proj": 24},
                   "rank_pattern": {"q_proj": 2, "layers.0.mlp.down_proj": 7}}),
        ("qwen2", {}),
        ("qwen2", {"use_rslora": True, "rank_pattern": {"v_proj": 2},
                   "alpha_pattern": {"o_proj": 5}}),
        ("qwen3", {}),
        ("gemma2", {}),
        ("phi3", {"use_rslora": True}),
        ("gpt2", {}),
        ("mixtral", {}),
    ],
)  # fmt: skip
def test_logits(kind: str, how: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python, which builds llama.cpp")
    about, held = KINDS[kind], model(kind)
    held.save_pretrained(tmp_path / "base")
    base = write(tmp_path / "base.gguf", kind, held)
    tokens = torch.tensor([TOKENS])
    with torch.no_grad():
        plain = held(tokens).logits[0].numpy()
    settings = {
        "r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM", "target_modules": [*about.targets],
        "target_parameters": [*about.experts] or None, **how,
    }  # fmt: skip
    adapted = peft.get_peft_model(held, peft.LoraConfig(**settings)).eval()
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    with torch.no_grad():
        want = adapted(tokens).logits[0].numpy()
    adapted.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    convert(tmp_path / "a", to="gguf", out=tmp_path / "x.gguf", base=tmp_path / "base")
    noise = np.abs(llama_cpp(tmp_path, base, None) - plain).max()
    found, largest = llama_cpp(tmp_path, base, tmp_path / "x.gguf"), max(np.abs(want).max(), 1.0)
    if about.gelu:  # ggml looks GELU up in a table of float16, so its logits are not torch's
        assert max(noise, np.abs(found - want).max()) < 2e-3
        with torch.no_grad():
            merged = write(tmp_path / "merged.gguf", kind, adapted.merge_and_unload())
        want, noise = llama_cpp(tmp_path, merged, None), 0.0
    assert noise < 1e-5
    assert np.abs(found - want).max() < 1e-5 * largest
    assert np.abs(want - plain).max() > 1
