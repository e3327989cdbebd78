"""Measure a merge against PEFT and against copying the base: wall time, CPU time, peak memory.

Whole processes are run in turn, each on its own, after one warm-up of each. This module imports
the standard library only: on Linux the peak memory reported for a child is never below that of
the process that started it, so the harness has to stay small.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from itertools import product
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from time import perf_counter
from typing import Any

HERE = Path(__file__).resolve().parent
TOOLS = ("ours", "peft", "cp", "durable")
RATIOS = (("peft", "ours"), ("ours", "cp"), ("durable", "cp"), ("ours", "durable"))
RSS_PER_MIB = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB elsewhere


@dataclass(frozen=True)
class Case:
    name: str
    targets: str
    layers: int = 22
    shards: int = 5


HALF = Case("all-linear", "all-linear")
DEEP = Case("deep", "all-linear", layers=44, shards=10)
CASES = {case.name: case for case in (HALF, Case("attention", "attention"), DEEP)}


@dataclass(frozen=True)
class Run:
    case: str
    tool: str
    round: int  # 0 is the warm-up
    wall_s: float
    cpu_s: float
    peak_mib: float


@dataclass(frozen=True)
class Bench:
    """Where the files are and how often each tool runs."""

    work: Path
    scratch: Path
    runs: dict[str, int]
    check: bool

    def base(self, case: Case) -> Path:
        return self.work / f"base-{case.layers}"

    def adapter(self, case: Case) -> Path:
        return self.work / f"adapter-{case.name}"

    def out(self, tool: str) -> Path:
        return self.scratch / tool

    def command(self, tool: str, case: Case) -> list[str]:
        base, adapter, out = map(str, (self.base(case), self.adapter(case), self.out(tool)))
        if tool == "cp":
            return ["cp", "-r", base, out]
        if tool == "durable":  # as ours leaves its output: on the disk
            return ["sh", "-c", 'cp -r "$0" "$1" && exec sync "$1"/*', base, out]
        merge = [adapter, "--base", base, "--out", out]
        if tool == "peft":
            return [sys.executable, str(HERE / "peft_merge.py"), "merge", *merge]
        return [sys.executable, "-m", "adaptertools", "merge", *merge]

    def prepare(self, case: Case) -> list[Path]:
        """Make what is missing of the case's base and adapter; return what was made."""
        paths = [self.base(case), self.adapter(case)]
        missing = [path for path in paths if not path.exists()]
        if missing:
            print(f"making {', '.join(path.name for path in missing)}", file=sys.stderr)
            size = ["--layers", str(case.layers), "--shards", str(case.shards)]
            script = [str(HERE / "make_base.py"), *map(str, paths), *size]
            subprocess.run([sys.executable, *script, "--targets", case.targets], check=True)
        return missing

    def run_case(self, case: Case) -> list[Run]:
        """Run the tools in turn: a warm-up of each, then round after round.

        Every output is removed after its run, untimed; the last ones are left for the check.
        """
        result = []
        for number, tool in product(range(max(self.runs.values()) + 1), self.runs):
            if number <= self.runs[tool]:
                result.append(self.measure(case, tool, number))
                print(f"{case.name} {tool} {number}: {result[-1].wall_s:.2f} s", file=sys.stderr)
                if not (self.check and number == self.runs[tool]):
                    shutil.rmtree(self.out(tool))
        return result

    def compare(self, case: Case) -> None:
        """Say how our last output differs from PEFT's, and remove what the runs left."""
        print(f"\n{case.name}, ours against PEFT: ", end="", flush=True)
        outputs = [str(self.out(tool)) for tool in ("ours", "peft")]
        script = [sys.executable, str(HERE / "peft_merge.py"), "compare", *outputs]
        subprocess.run(script, check=True)
        for tool in self.runs:
            shutil.rmtree(self.out(tool))

    def measure(self, case: Case, tool: str, number: int) -> Run:
        log = self.scratch / f"{tool}.log"
        warm([self.base(case), self.adapter(case)])
        os.sync()
        argv = self.command(tool, case)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [(os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644), (os.POSIX_SPAWN_DUP2, 1, 2)]
        start = perf_counter()
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        wall = perf_counter() - start
        if status:
            text = log.read_text(encoding="utf-8", errors="replace")
            sys.exit(f"{' '.join(argv)}: {os.waitstatus_to_exitcode(status)}\n{text[-2000:]}")
        cpu = usage.ru_utime + usage.ru_stime
        return Run(case.name, tool, number, wall, cpu, usage.ru_maxrss / RSS_PER_MIB)


def warm(directories: Iterable[Path]) -> None:
    """Read every file once, so that each run finds its input in the page cache."""
    buffer = bytearray(2**20)
    for path in (path for directory in directories for path in directory.iterdir()):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def report(case: str, runs: list[Run]) -> None:
    counted = [run for run in runs if run.case == case and run.round]
    print(f"\n{case}")
    print("        runs   wall s         min-max    CPU s  peak MiB         min-max")
    for tool in dict.fromkeys(run.tool for run in counted):
        mine = [run for run in counted if run.tool == tool]
        wall, peak = [run.wall_s for run in mine], [run.peak_mib for run in mine]
        walls, peaks = f"{min(wall):.2f}-{max(wall):.2f}", f"{min(peak):.0f}-{max(peak):.0f}"
        cpu = median(run.cpu_s for run in mine)
        times = f"{median(wall):9.2f}{walls:>16}{cpu:9.2f}"
        print(f"{tool:8}{len(mine):4}{times}{median(peak):10.0f}{peaks:>16}")
    walls_of = {(run.tool, run.round): run.wall_s for run in counted}
    for over, under in RATIOS:
        rounds = [n for tool, n in walls_of if tool == over and (under, n) in walls_of]
        ratios = [walls_of[over, n] / walls_of[under, n] for n in rounds]
        if ratios:
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"wall {over} / {under}: {median(ratios):.2f} (pairs: {each})")


def report_depth(runs: list[Run]) -> None:
    """How our peak memory grows when the base gets twice as deep."""
    ours = [run for run in runs if run.tool == "ours" and run.round]
    deep = [run.peak_mib for run in ours if run.case == DEEP.name]
    half = [run.peak_mib for run in ours if run.case == HALF.name]
    if deep and half:
        high, low = median(deep), median(half)
        print(f"\npeak of ours, deep / all-linear: {high:.0f} / {low:.0f} MiB = {high / low:.2f}")


def environment() -> dict[str, Any]:
    packages = {"adaptertools", "numpy", "peft", "safetensors", "torch", "transformers"}
    installed = metadata.distributions()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {dist.name: dist.version for dist in installed if dist.name in packages},
        "harness_peak_mib": getrusage(RUSAGE_SELF).ru_maxrss / RSS_PER_MIB,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="directory to work in (default: a temporary one)")
    parser.add_argument("--runs", type=int, default=3, help="runs of ours and of the copies")
    parser.add_argument("--peft-runs", type=int, default=2, help="runs of PEFT")
    parser.add_argument("--case", choices=[*CASES, "all"], default="all")
    parser.add_argument("--only", default=",".join(TOOLS), help="what to run, comma-separated")
    parser.add_argument("--check", action="store_true", help="compare our outputs with PEFT's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw numbers to FILE")
    parser.add_argument("--keep", action="store_true", help="leave bases and adapters in place")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if not set(args.only) <= set(TOOLS):
        parser.error(f"--only takes a choice of {','.join(TOOLS)}")
    if args.check and not {"ours", "peft"} <= set(args.only):
        parser.error("--check needs ours and peft")
    if min(args.runs, args.peft_runs) < 1:
        parser.error("--runs and --peft-runs start at 1")
    if args.work and args.work.resolve().is_relative_to(HERE.parent):
        parser.error("--work may not be inside the repository")
    return args


def run_cases(bench: Bench, chosen: list[Case], made: list[Path]) -> list[Run]:
    """Run the cases, noting in `made` the inputs that had to be made."""
    runs: list[Run] = []
    for case in chosen:
        made += bench.prepare(case)
        runs += bench.run_case(case)
        report(case.name, runs)
        if bench.check:
            bench.compare(case)
    return runs


def main() -> None:
    args = parse()
    cases = list(CASES.values()) if args.case == "all" else [CASES[args.case]]
    os.environ["HF_HUB_OFFLINE"] = "1"
    work = args.work or Path(tempfile.mkdtemp(prefix="merge-"))
    work.mkdir(parents=True, exist_ok=True)
    counts = {tool: args.peft_runs if tool == "peft" else args.runs for tool in args.only}
    made: list[Path] = []
    try:
        with tempfile.TemporaryDirectory(dir=work, prefix="run-") as scratch:
            bench = Bench(work, Path(scratch), counts, args.check)
            runs = []
            if args.case == "deep" and "ours" in counts:  # what its peak is compared with
                half = replace(bench, runs={"ours": args.runs}, check=False)
                runs += run_cases(half, [HALF], made)
            runs += run_cases(bench, cases, made)
    finally:
        for path in [] if args.keep else [*made, *([] if args.work else [work])]:
            shutil.rmtree(path, ignore_errors=True)
    report_depth(runs)
    if args.keep:
        print(f"bases and adapters are in {work}")
    if args.json:
        raw = {"environment": environment(), "runs": [asdict(run) for run in runs]}
        args.json.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
