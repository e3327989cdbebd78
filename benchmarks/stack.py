"""Measure stacking against PEFT's add_weighted_adapter(combination_type="svd").

Two parts. `layers` takes single weights of a Llama of 8 billion parameters, PEFT and ours in the
same process: CPU and wall time, peak memory beyond what was there, and the error of both against
the truncation of the dense sum in float64. `set` stacks whole adapters of that model in a process
of its own. The factors are random, with spectra that fall as j^-0.7.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from stack_set import WEIGHTS, factors, whole_set

# (out, in) and how many of them a layer has.
SHAPES = {"q_proj": (4096, 4096, 2), "k_proj": (1024, 4096, 2), "gate_proj": (14336, 4096, 2),
          "down_proj": (4096, 14336, 1)}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one call took; MiB are beyond what the process held before, -1 where nothing says."""

    wall_s: float
    cpu_s: float
    peak_mib: float


@dataclass(frozen=True)
class Line:
    module: str
    shape: tuple[int, int]
    adapters: int
    rank: int
    peft: Cost
    ours: Cost
    error_peft: float | None
    error_ours: float | None  # of the factors as stored, in float32
    error_float64: float | None


def held_mib(key: str) -> float:
    """Give VmRSS or VmHWM of this process; 0 where there is no /proc."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(key))


def timed(call: Any) -> tuple[Any, Cost]:
    """Run once; the peak counts from now on, where the kernel lets us begin anew."""
    peak = True
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or what earlier calls left would be used unseen
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        peak = False
    before, wall, cpu = held_mib("VmRSS"), perf_counter(), process_time()
    made = call()
    wall, cpu = perf_counter() - wall, process_time() - cpu
    return made, Cost(wall, cpu, held_mib("VmHWM") - before if peak else -1.0)


def peft_model(module: str, shape: tuple[int, int], pairs: list[tuple[Any, Any]]) -> Any:
    """One linear layer with these adapters; the base's weight is never touched."""
    import torch
    from peft import LoraConfig, get_peft_model

    rows, columns = shape
    with torch.device("meta"):
        model = torch.nn.Sequential()
        model.add_module(module, torch.nn.Linear(columns, rows, bias=False))
    model = model.to_empty(device="cpu")
    rank = len(pairs[0][1])
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=[module])
    held = get_peft_model(model, config, adapter_name="a0")
    for i in range(1, len(pairs)):
        held.add_adapter(f"a{i}", config)
    layer = held.base_model.model.get_submodule(module)
    with torch.no_grad():
        for i, (up, down) in enumerate(pairs):
            layer.lora_A[f"a{i}"].weight.copy_(torch.from_numpy(down))
            layer.lora_B[f"a{i}"].weight.copy_(torch.from_numpy(up))
    return held


def with_peft(model: Any, module: str, count: int, rank: int) -> tuple[tuple[Any, Any], Cost]:
    names = [f"a{i}" for i in range(count)]
    _, cost = timed(
        lambda: model.base_model.add_weighted_adapter(
            names, list(WEIGHTS[:count]), "all", combination_type="svd", svd_rank=rank
        )
    )
    layer = model.base_model.model.get_submodule(module)
    scale = layer.scaling["all"]
    up, down = (layer.lora_B["all"].weight, layer.lora_A["all"].weight)
    return (up.detach().double().numpy() * scale, down.detach().double().numpy()), cost


def with_ours(pairs: list[tuple[Any, Any]], rank: int) -> tuple[Any, Cost]:
    from adaptertools.update.factors import Factors, cat

    def run() -> Any:
        parts = [
            Factors(up.astype("f8"), down.astype("f8")).scaled(weight)
            for (up, down), weight in zip(pairs, WEIGHTS, strict=False)
        ]
        return cat(parts).svd().truncated(rank).factors()

    return timed(run)


def best(pairs: list[tuple[Any, Any]], rank: int) -> Any:
    """Truncate the dense sum in float64, by LAPACK."""
    import numpy as np

    whole = sum(
        weight * (up.astype("f8") @ down.astype("f8"))
        for (up, down), weight in zip(pairs, WEIGHTS, strict=False)
    )
    left, values, right = np.linalg.svd(whole, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def measure(module: str, count: int, rank: int, dense: float) -> Line:
    import numpy as np

    rows, columns, _ = SHAPES[module]
    pairs = [factors(rows, columns, rank, seed) for seed in range(count)]
    (mine, first), (_, again) = with_ours(pairs, rank), with_ours(pairs, rank)
    # The first warms BLAS up; the second finds memory that the first has left.
    cost = replace(again, peak_mib=max(first.peak_mib, again.peak_mib))
    theirs, paid = with_peft(peft_model(module, (rows, columns), pairs), module, count, rank)
    errors: list[float | None] = [None] * 3
    if rows * columns <= dense:
        wanted = best(pairs, rank)
        stored = mine.up.astype("f4").astype("f8"), mine.down.astype("f4").astype("f8")
        size = np.linalg.norm(wanted)
        made = (theirs, stored, (mine.up, mine.down))
        errors = [float(np.linalg.norm(up @ down - wanted) / size) for up, down in made]
    return Line(module, (rows, columns), count, rank, paid, cost, *errors)


def table(lines: list[Line]) -> str:
    """Write Markdown: PEFT, ours, and PEFT / ours."""
    rows = ["| weight | adapters × rank | PEFT CPU | ours CPU | ratio | peak MiB, PEFT / ours "
            "| error, PEFT / ours float32 / float64 |", "| --- " * 7 + "|"]  # fmt: skip
    for line in lines:
        errors = (line.error_peft, line.error_ours, line.error_float64)
        said = " / ".join("-" if each is None else f"{each:.1e}" for each in errors)
        rows.append(
            f"| `{line.module}` {line.shape[0]}×{line.shape[1]} | {line.adapters} × {line.rank} "
            f"| {line.peft.cpu_s:.2f} s | {line.ours.cpu_s:.4f} s "
            f"| {line.peft.cpu_s / line.ours.cpu_s:.0f} "
            f"| {line.peft.peak_mib:.0f} / {line.ours.peak_mib:.0f} | {said} |"
        )
    return "\n".join(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("layers", "set"))
    parser.add_argument("--modules", nargs="+", choices=SHAPES, default=["k_proj"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--adapters", nargs="+", type=int, default=[2, 3, 8])
    parser.add_argument("--dense", type=float, default=5e6, help="elements up to which errors are")
    parser.add_argument("--layers", type=int, default=32, help="of the set")
    parser.add_argument("--asked", nargs="+", default=["auto", "16"], help="--rank of the set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep the adapters of the set here")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # before numpy and torch are there
    found: list[dict[str, Any]] = []
    if args.part == "layers":
        lines = [measure(module, count, rank, args.dense) for module in args.modules
                 for rank in args.ranks for count in args.adapters]  # fmt: skip
        print(table(lines))
        found = [asdict(line) for line in lines]
    else:
        work = args.work or Path(tempfile.mkdtemp())
        for count in args.adapters:
            for asked in args.asked:
                found.append(whole_set(count, args.ranks[0], args.layers, work, asked))
                print(json.dumps(found[-1]))
        if args.work is None:
            shutil.rmtree(work)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
