"""Write the examples of the WGT checks: `python -m tests.checks.make_wgt`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.checks import tiny
from tests.checks.tiny import Arrays

Change = Callable[[Path], None]
Q0 = f"{tiny.START}0.self_attn.q_proj"
HEAD = "base_model.model.lm_head.weight"
CONFIRMED = {"lora_adapter_metadata": '{"r": 2, "lora_alpha": 4, "use_rslora": true}'}
OTHERS = {"lora_adapter_metadata": '{"r": 2, "lora_alpha": 8}'}
PROMPT = {
    "base_model_name_or_path": tiny.BASE,
    "inference_mode": True,
    "num_attention_heads": 2,
    "num_layers": 2,
    "num_transformer_submodules": 1,
    "num_virtual_tokens": 3,
    "peft_type": "PROMPT_TUNING",
    "peft_version": "0.18.1",
    "revision": tiny.CONFIG["revision"],
    "task_type": "CAUSAL_LM",
    "token_dim": tiny.WIDTH,
}


def both(*changes: Change) -> Change:
    """Make several changes."""

    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def said(**changes: Any) -> Change:
    """Change keys of the config."""
    return lambda folder: tiny.set_config(folder, **changes)


def held(change: Callable[[Arrays], Arrays], metadata: dict[str, str] | None = None) -> Change:
    """Change the tensors."""
    return lambda folder: tiny.set_tensors(folder, change, metadata)


def deep(folder: Path) -> None:
    """Have tensor data read."""
    tiny.set_options(folder, deep=True)


def untouched(folder: Path) -> None:
    """Leave it as it is."""


def overlapping(folder: Path) -> None:
    """Write a header that gives two tensors the same bytes."""
    entry = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b'{"a":%s,"b":%s}' % (entry, entry)
    data = len(header).to_bytes(8, "little") + header + b"\0" * 4
    (folder / tiny.WEIGHTS_FILE).write_bytes(data)


def cut(folder: Path) -> None:
    """Lose the end of the file."""
    path = folder / tiny.WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-100])


def deeper(tensors: Arrays) -> Arrays:
    """Make it six layers."""
    more = {
        name.replace(f"{tiny.START}0", f"{tiny.START}{layer}"): array
        for layer in range(6)
        for name, array in tensors.items()
        if name.startswith(f"{tiny.START}0")
    }
    return {**more, **tensors}


def grown(tensors: Arrays, name: str, factor: float) -> Arrays:
    """Multiply one tensor."""
    return {**tensors, name: (tensors[name] * factor).astype(tensors[name].dtype)}


def without(tensors: Arrays, word: str) -> Arrays:
    """Take out the tensors with a word in their name."""
    return {name: array for name, array in tensors.items() if word not in name}


def zeroed(tensors: Arrays, *words: str) -> Arrays:
    """Set the tensors to zero that have all these words in their name."""
    return {n: a * (not all(w in n for w in words)) for n, a in tensors.items()}


def magnitudes(tensors: Arrays) -> Arrays:
    """Add what DoRA saves."""
    rows = {n: a.shape[0] for n, a in tensors.items() if "lora_B" in n}
    return tensors | {
        name.replace("lora_B", "lora_magnitude_vector"): tiny.noise(count) + 1
        for name, count in rows.items()
    }


def narrow(tensors: Arrays) -> Arrays:
    """Leave the second column of every B zero."""
    return {n: a * np.float32([1, 0]) if "lora_B" in n else a for n, a in tensors.items()}


def head(tensors: Arrays) -> Arrays:
    """Add a head."""
    return {**tensors, HEAD: tiny.noise(tiny.VOCAB, tiny.WIDTH)}


def prompts(rows: int) -> Change:
    """Make it prompt tuning, with so many rows of embeddings."""

    def change(folder: Path) -> None:
        tiny.write_json(folder / tiny.CONFIG_FILE, PROMPT)
        tiny.set_tensors(folder, lambda _: {"prompt_embeddings": tiny.noise(rows, tiny.WIDTH)})

    return change


def norm(tensors: Arrays) -> Arrays:
    """Add a weight of the base."""
    return {**tensors, "base_model.model.model.norm.weight": tiny.noise(tiny.WIDTH)}


# What is done to the bad one, and to the good one.
EXAMPLES: dict[str, tuple[Change, Change]] = {
    "WGT001": (overlapping, untouched),
    "WGT002": (held(lambda t: {n: a[:0] for n, a in t.items()}), untouched),
    "WGT003": (
        held(lambda t: {n.removeprefix("base_model.model."): a for n, a in t.items()}),
        untouched,
    ),
    "WGT004": (held(lambda t: without(t, "1.self_attn.v_proj.lora_B")), untouched),
    "WGT005": (said(r=4), said(r=4, rank_pattern={"q_proj": 2, "v_proj": 2})),
    "WGT006": (
        said(target_modules=["q_proj"]),
        said(target_modules=r".*\.(q|v)_proj"),
    ),
    "WGT007": (said(target_modules=["q_proj", "v_proj", "c_attn"]), untouched),
    "WGT008": (
        held(lambda t: without(deeper(t), "3.self_attn.v_proj")),
        held(lambda t: without(deeper(t), "5.")),
    ),
    "WGT009": (said(use_dora=True), both(said(use_dora=True), held(magnitudes))),
    "WGT010": (
        said(modules_to_save=["lm_head"]),
        both(said(modules_to_save=["lm_head"]), held(head)),
    ),
    "WGT011": (held(norm), both(said(modules_to_save=["lm_head"]), held(head))),
    "WGT012": (
        held(lambda t: {n: a.astype("f8") if "lora_B" in n else a for n, a in t.items()}),
        held(lambda t: {n: a.astype("f2") for n, a in t.items()}),
    ),
    "WGT013": (
        both(held(lambda t: grown(t, f"{Q0}.lora_B.weight", float("nan"))), deep),
        deep,
    ),
    "WGT014": (
        both(held(lambda t: zeroed(t, "lora_B")), deep),
        both(held(lambda t: zeroed(t, "lora_A", "1.self_attn")), deep),
    ),
    "WGT015": (
        both(held(lambda t: grown(deeper(t), f"{Q0}.lora_B.weight", 100)), deep),
        both(held(lambda t: grown(deeper(t), f"{Q0}.lora_B.weight", 3)), deep),
    ),
    "WGT016": (both(held(narrow), deep), deep),
    "WGT017": (held(lambda t: t, OTHERS), untouched),
    "WGT018": (cut, untouched),
    "WGT019": (prompts(4), prompts(3)),
    "WGT020": (
        said(use_rslora=True),
        both(said(use_rslora=True), held(lambda t: t, {"format": "pt", **CONFIRMED})),
    ),
}  # fmt: skip


def main() -> None:
    """Write them all."""
    for code, (spoil, vary) in EXAMPLES.items():
        good, bad = tiny.pair(code)
        spoil(bad)
        vary(good)


if __name__ == "__main__":
    main()
