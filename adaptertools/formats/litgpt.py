"""LitGPT's folder: lit_model.pth.lora, and YAML of the model and of the training beside it.

LitGPT has one rank and alpha, and adapts a kind of module in every layer or in none: what is
missing is written as zeros. q, k and v lie in one module, each with an A of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.formats import Ask, Wrote
from adaptertools.formats._litgpt_model import MODEL, TRAINING, Model, model
from adaptertools.formats._litgpt_names import Place, places
from adaptertools.formats._litgpt_read import NAME, read
from adaptertools.formats._litgpt_write import FLAGS, plan, tensors
from adaptertools.formats._modules import roles
from adaptertools.formats._scaled import whole
from adaptertools.formats._torch_save import save

__all__ = ["HOLDS", "LACKS", "PROVED", "SUFFIX", "matches", "read", "write"]

HOLDS: frozenset[str] = frozenset()
SUFFIX = ""
LACKS = "DoRA, biases of lora_B, embeddings, convolutions, saved modules, token rows"
PROVED = "LitGPT 0.5.13"
# What `litgpt merge_lora` wants beside the factors, of the base's folder.
_ALONG = ("config.json", "generation_config.json", MODEL, "tokenizer.json", "tokenizer.model",
          "tokenizer_config.json")  # fmt: skip


def matches(files: Collection[str]) -> bool:
    """Tell whether there are LitGPT's factors."""
    return NAME in files


def write(adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
    """Write factors and training config, and what LitGPT wants of the base beside them.

    `ask.base` is LitGPT's folder of the base. Raises NotFound without its model_config.yaml,
    Unsupported for modules that LitGPT does not adapt, Mismatch for shapes that are not its.
    """
    held = model(ask.base)
    adapter = replace(adapter, entries=tuple(map(_current, adapter.entries)))
    every = list(places(held))
    _check(adapter, {place.target: place for place in every}, held)
    wrote = Wrote(files=[NAME, TRAINING], tensors=0, nbytes=0)
    made = plan(adapter, every, held, ask, wrote)
    wrote.tensors, wrote.nbytes = save(draft / NAME, tensors(made), "model")
    wrote.folded = list(dict.fromkeys(wrote.folded))
    (draft / TRAINING).write_text(_training(made.rank, made.scale, made.flags, held), "utf-8")
    for name in _ALONG:
        if ask.base and (ask.base / name).is_file():
            shutil.copyfile(ask.base / name, draft / name)
            wrote.files.append(name)
    return wrote


def _current(entry: Entry) -> Entry:
    """Name GPT-NeoX's head as transformers 5 does."""
    return replace(entry, target="lm_head") if entry.target == "embed_out" else entry


def _check(adapter: Adapter, known: Mapping[str, Place], held: Model) -> None:
    if odd := [e.target for e in adapter.entries if e.target not in known]:
        raise Unsupported(
            f"{first(odd, 3)}: LitGPT's LoRA has no place for these in {shown(held.name)}. "
            "Merge the adapter into its base instead."
        )
    for entry in adapter.entries:
        down, up = (entry.parts[role].shape for role in roles(entry))
        parts = known[entry.target].parts
        own = sum(part.rows for part in parts), parts[0].columns
        if (up[0], down[1]) != own:
            raise Mismatch(
                f"{shown(entry.target)}: the update is {up[0]}×{down[1]}, and {shown(held.file)} "
                f"makes {own[0]}×{own[1]} of the weight. Pass LitGPT's folder of the base that it "
                "was trained on."
            )


def _training(rank: int, scale: float, flags: Collection[str], held: Model) -> str:
    """Say what `litgpt merge_lora` reads of a training."""
    import yaml

    said = {"lora_r": rank, "lora_alpha": whole(scale * rank), "lora_dropout": 0.0}
    said |= {flag: flag in flags for flag in FLAGS.values()}
    where = f"checkpoints/{held.repo or held.name}"  # where `litgpt download` puts it
    return str(yaml.safe_dump({"checkpoint_dir": where, **said}))
