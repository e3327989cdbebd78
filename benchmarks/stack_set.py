"""The set of whole adapters for stack.py: made, and stacked in a process of its own.

This module imports the standard library only, until it makes an adapter in a process of its own:
the peak memory reported for a child is never below that of the process that started it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

SET = {"self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (1024, 4096),
       "self_attn.v_proj": (1024, 4096), "self_attn.o_proj": (4096, 4096),
       "mlp.gate_proj": (14336, 4096), "mlp.up_proj": (14336, 4096),
       "mlp.down_proj": (4096, 14336)}  # fmt: skip
WEIGHTS = (1.0, 0.5, 0.3, 0.7, 0.2, 0.9, 0.4, 0.6)


def factors(rows: int, columns: int, rank: int, seed: int) -> tuple[Any, Any]:
    """Random up and down in float32, of a product whose singular values fall."""
    import numpy as np

    random = np.random.default_rng(seed)
    fall = np.arange(1, rank + 1) ** -0.35
    up = random.standard_normal((rows, rank)) * fall / rows**0.5
    down = random.standard_normal((rank, columns)) * fall[:, None] / columns**0.5
    return up.astype("f4"), down.astype("f4")


def make_adapter(folder: Path, rank: int, layers: int, seed: int) -> None:
    """Write a LoRA of the whole model in float32."""
    from safetensors.numpy import save_file

    held = {}
    for layer in range(layers):
        for i, (module, (rows, columns)) in enumerate(SET.items()):
            up, down = factors(rows, columns, rank, seed * 10_000 + layer * 10 + i)
            name = f"base_model.model.model.layers.{layer}.{module}"
            held[f"{name}.lora_A.weight"], held[f"{name}.lora_B.weight"] = down, up
    folder.mkdir(parents=True)
    save_file(held, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "task_type": "CAUSAL_LM",
              "base_model_name_or_path": "meta-llama/Llama-3.1-8B",
              "target_modules": [name.rpartition(".")[2] for name in SET]}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def whole_set(count: int, rank: int, layers: int, work: Path, asked: str) -> dict[str, Any]:
    """Stack adapters of the whole model in a process of its own; this one stays small."""
    paths = [work / f"adapter-{rank}-{layers}-{i}" for i in range(count)]
    for seed, path in enumerate(paths):
        if not path.exists():
            script = [__file__, str(path), str(rank), str(layers), str(seed)]
            subprocess.run([sys.executable, *script], check=True)
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    named = [f"{path}={weight}" for path, weight in zip(paths, WEIGHTS, strict=False)]
    command = [sys.executable, "-m", "adaptertools", "stack", *named, "--out", str(out), "-q",
               "--rank", asked, "--allow-lossy"]  # fmt: skip
    wall = perf_counter()
    child = subprocess.Popen(command)
    _, status, used = os.wait4(child.pid, 0)
    wall = perf_counter() - wall
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {"adapters": count, "rank": rank, "asked": asked, "layers": layers, "wall_s": wall,
            "cpu_s": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / unit}  # fmt: skip


if __name__ == "__main__":
    make_adapter(Path(sys.argv[1]), *map(int, sys.argv[2:]))
