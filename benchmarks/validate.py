"""Measure validating many adapters: config and headers of a thousand, in seconds on one core.

The adapters are made here, as PEFT writes them: LoRA on Llamas of 16 to 80 layers, two to seven
modules of each, and a card. Their weights are holes in the file, so they take no room on a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import pstats
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

START = "base_model.model.model.layers"
# Layers, width, width of keys and values, width of the MLP: Llama 3 of 1, 3, 8 and 70 billion.
SHAPES = [(16, 2048, 512, 8192), (28, 3072, 1024, 8192), (32, 4096, 1024, 14336),
          (80, 8192, 1024, 28672)]  # fmt: skip
TARGETS = [
    ["q_proj", "v_proj"],
    ["q_proj", "k_proj", "v_proj", "o_proj"],
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
]
CARD = """---
base_model: {base}
library_name: peft
tags:
- lora
---

# Adapter {number}

A LoRA of rank {rank}, made for a benchmark.
"""


def tensors(
    shape: tuple[int, ...], targets: list[str], rank: int
) -> Iterator[tuple[str, int, int]]:
    """Give name, rows and columns of each tensor."""
    layers, width, narrow, wide = shape
    sizes = {
        "q_proj": (width, width), "k_proj": (narrow, width), "v_proj": (narrow, width),
        "o_proj": (width, width), "gate_proj": (wide, width), "up_proj": (wide, width),
        "down_proj": (width, wide),
    }  # fmt: skip
    for layer in range(layers):
        for target in targets:
            rows, columns = sizes[target]
            block = "mlp" if target in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            yield f"{START}.{layer}.{block}.{target}.lora_A.weight", rank, columns
            yield f"{START}.{layer}.{block}.{target}.lora_B.weight", rows, rank


def make(folder: Path, number: int) -> int:
    """Write one adapter; give the number of its tensors."""
    shape = SHAPES[number % len(SHAPES)]
    targets = TARGETS[number % len(TARGETS)]
    rank = (8, 16, 32, 64)[number // 3 % 4]
    base = f"example-org/llama-{shape[0]}"
    folder.mkdir()
    config = {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": base,
        "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "layer_replication": None, "layers_pattern": None,
        "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 2 * rank,
        "lora_dropout": 0.05, "modules_to_save": None, "peft_type": "LORA", "r": rank,
        "rank_pattern": {}, "revision": None, "target_modules": targets,
        "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), "utf-8")
    (folder / "README.md").write_text(CARD.format(base=base, number=number, rank=rank), "utf-8")
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, rows, columns in tensors(shape, targets, rank):
        start, end = end, end + 4 * rows * columns
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return len(header) - 1


def command(folder: Path) -> list[str]:
    return ["-m", "adaptertools", "validate", str(folder), "--isolated", "--fail-on", "never",
            "--format", f"json={folder}.json"]  # fmt: skip


def run(folder: Path, core: int | None) -> tuple[float, float, float]:
    """Validate the folder in a process of its own; give wall and CPU seconds, and peak MiB."""
    argv = [sys.executable, *command(folder)]
    start = perf_counter()
    pid = os.posix_spawn(argv[0], argv, os.environ)
    if core is not None:
        os.sched_setaffinity(pid, {core})
    _, status, used = os.wait4(pid, 0)
    if status:
        sys.exit(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}")
    per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / per_mib


def profile(folder: Path, lines: int) -> None:
    """Show where the time of one run goes."""
    file = f"{folder}.profile"
    subprocess.run([sys.executable, "-m", "cProfile", "-o", file, *command(folder)], check=True)
    stats = pstats.Stats(file)
    stats.sort_stats("tottime").print_stats(lines)
    stats.sort_stats("cumulative").print_stats(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where to make the adapters; a temporary folder")
    parser.add_argument("--profile", type=int, metavar="LINES", help="also show where time goes")
    args = parser.parse_args()
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        folder = Path(work, "adapters")
        folder.mkdir()
        count = sum(make(folder / f"{number:04}", number) for number in range(args.adapters))
        runs = [run(folder, core) for _ in range(args.runs + 1)][1:]
        said = json.loads(Path(f"{folder}.json").read_text("utf-8"))
        assert said["summary"]["adapters"] == args.adapters
        ran, found = len(said["adapters"][0]["checks_run"]), said["summary"]
        wall, cpu = median(r[0] for r in runs), median(r[1] for r in runs)
        print(f"{args.adapters} adapters, {count} tensors, {ran} checks each, one core")
        print(f"found: {found['error']} errors, {found['warning']} warnings, {found['note']} notes")
        print(f"wall {wall:.2f} s ({min(r[0] for r in runs):.2f}-{max(r[0] for r in runs):.2f}), "
              f"CPU {cpu:.2f} s, peak {max(r[2] for r in runs):.0f} MiB")  # fmt: skip
        if args.profile:
            profile(folder, args.profile)


if __name__ == "__main__":
    main()
