"""Measure merging into 4 bit: against bitsandbytes' kernels alone and PEFT's merge in memory.

A bfloat16 Llama of 1.1 billion random weights, LoRA r=16 on all linear layers. Whole processes are
run in turn; of the kernels only the seconds inside them count, on the same tensors and threads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from merge import HALF, HERE, RSS_PER_MIB, Bench, environment, warm

OURS = ("16-to-nf4", "nf4-to-nf4")
TOOLS = (*OURS, "kernels", "peft-16", "peft-nf4")


@dataclass(frozen=True)
class Quant:
    work: Path
    scratch: Path
    threads: int

    @property
    def inputs(self) -> Bench:
        return Bench(self.work, self.scratch, {}, check=False)

    @property
    def packed(self) -> Path:
        return self.work / "base-nf4"

    def prepare(self) -> None:
        self.inputs.prepare(HALF)
        if not self.packed.exists():
            blank = self.scratch / "blank"
            shutil.copytree(self.inputs.adapter(HALF), blank)
            argv = self.merge(blank, self.inputs.base(HALF), self.packed, "--scale", "0")
            self.run([*argv, "--quant", "nf4"])

    def merge(self, adapter: Path, base: Path, out: Path, *more: str) -> list[str]:
        ours = [sys.executable, "-m", "adaptertools", "merge", str(adapter), "--base", str(base)]
        return [*ours, "--out", str(out), "-q", "--max-workers", str(self.threads), *more]

    def command(self, tool: str) -> list[str]:
        base, adapter = self.inputs.base(HALF), self.inputs.adapter(HALF)
        out, peer = self.scratch / tool, [sys.executable, str(HERE / "quant_peer.py")]
        return {
            "16-to-nf4": self.merge(adapter, base, out, "--quant", "nf4"),
            "nf4-to-nf4": self.merge(adapter, self.packed, out),
            "kernels": [*peer, "kernels", str(base), "--threads", str(self.threads)],
            "peft-16": [*peer, "peft-16", str(base), "--adapter", str(adapter),
                        "--threads", str(self.threads)],
            "peft-nf4": [*peer, "peft-nf4", str(self.packed), "--adapter", str(adapter),
                         "--threads", str(self.threads)],
        }[tool]  # fmt: skip

    def run(self, argv: list[str]) -> tuple[float, float, float, str]:
        """Give wall seconds, CPU seconds, peak MiB and what was printed."""
        log = self.scratch / "log"
        threads = str(self.threads)
        env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [(os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644), (os.POSIX_SPAWN_DUP2, 1, 2)]
        start = perf_counter()
        pid = os.posix_spawnp(argv[0], argv, env, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        wall = perf_counter() - start
        text = log.read_text("utf-8", errors="replace")
        if status:
            sys.exit(f"{' '.join(argv)}: {os.waitstatus_to_exitcode(status)}\n{text[-2000:]}")
        return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / RSS_PER_MIB, text

    def measure(self, tool: str) -> dict[str, Any]:
        warm([self.inputs.base(HALF), self.inputs.adapter(HALF), self.packed])
        os.sync()
        wall, cpu, peak, text = self.run(self.command(tool))
        shutil.rmtree(self.scratch / tool, ignore_errors=True)
        said = json.loads(text.splitlines()[-1]) if tool not in OURS else {}
        return {"tool": tool, "wall_s": wall, "cpu_s": cpu, "peak_mib": peak, **said}


def report(runs: list[dict[str, Any]], threads: int) -> None:
    def mid(tool: str, key: str) -> float:
        return median(run[key] for run in runs if run["tool"] == tool)

    print(f"\n{threads} thread(s)         wall s         min-max    CPU s  peak MiB")
    for tool in TOOLS:
        walls = [run["wall_s"] for run in runs if run["tool"] == tool]
        spread = f"{min(walls):.2f}-{max(walls):.2f}"
        rest = f"{mid(tool, 'cpu_s'):9.2f}{mid(tool, 'peak_mib'):10.0f}"
        print(f"{tool:20}{median(walls):9.2f}{spread:>16}{rest}")
    weights = mid("kernels", "weights")
    quantise, dequantise = mid("kernels", "quantise_s"), mid("kernels", "dequantise_s")
    fresh, kept = mid("16-to-nf4", "wall_s"), mid("nf4-to-nf4", "wall_s")
    print(f"kernels: quantise {quantise:.2f} s, dequantise {dequantise:.2f} s")
    print(f"16 bit to nf4, whole process / quantise kernel: {fresh / quantise:.2f}")
    print(f"nf4 to nf4, whole process / both kernels: {kept / (quantise + dequantise):.2f}")
    print(f"nf4 to nf4: {weights / kept / threads / 1e6:.1f} million weights/s and thread")
    for tool, source, ours in (("peft-16", "16 bit", fresh), ("peft-nf4", "nf4", kept)):
        print(f"PEFT in memory / {source} to nf4, processes: {mid(tool, 'wall_s') / ours:.2f}")
        print(f"PEFT's merge alone / {source} to nf4, process: {mid(tool, 'merge_s') / ours:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="directory to work in (default: a temporary one)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw numbers to FILE")
    parser.add_argument("--keep", action="store_true", help="leave bases and adapters in place")
    args = parser.parse_args()
    if args.work and args.work.resolve().is_relative_to(HERE.parent):
        parser.error("--work may not be inside the repository")
    os.environ["HF_HUB_OFFLINE"] = "1"
    work = args.work or Path(tempfile.mkdtemp(prefix="quant-"))
    work.mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {"environment": environment(), "runs": {}}
    try:
        with tempfile.TemporaryDirectory(dir=work, prefix="run-") as scratch:
            bench = Quant(work, Path(scratch), os.cpu_count() or 1)
            bench.prepare()
            for threads in dict.fromkeys(args.threads):
                one = replace(bench, threads=threads)
                runs = []
                for number in range(args.runs + 1):
                    for tool in TOOLS:
                        run = one.measure(tool)
                        print(f"{tool} {number}: {run['wall_s']:.2f} s", file=sys.stderr)
                        runs += [run] if number else []
                report(runs, threads)
                raw["runs"][threads] = runs
    finally:
        if not (args.keep or args.work):
            shutil.rmtree(work, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
