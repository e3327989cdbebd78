"""Write the examples of the SRV checks: `python -m tests.checks.make_srv`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.checks import tiny
from tests.checks.make_bas import saved
from tests.checks.make_tok import tokenizer
from tests.checks.make_wgt import magnitudes
from tests.checks.tiny import Arrays

Change = Callable[[Path], None]


def said(**changes: Any) -> Change:
    """Change keys of the config."""
    return lambda folder: tiny.set_config(folder, **changes)


def dora(folder: Path) -> None:
    """Make it a DoRA."""
    tiny.set_config(folder, use_dora=True)
    tiny.set_tensors(folder, magnitudes)


def pickled(folder: Path) -> None:
    """Save it as PEFT did before 0.7."""
    path = folder / tiny.WEIGHTS_FILE
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()


def added(folder: Path) -> None:
    """Add a token."""
    tokenizer(folder, tiny.VOCAB, {"<new>": tiny.VOCAB})
    tiny.write_json(folder / "added_tokens.json", {"<new>": tiny.VOCAB})


def plain(folder: Path) -> None:
    """Bring a tokenizer without added tokens."""
    tokenizer(folder, tiny.VOCAB, {})


def head(folder: Path) -> None:
    """Adapt the head too."""

    def more(held: Arrays) -> Arrays:
        module = "base_model.model.lm_head"
        factors = {"A": tiny.noise(2, tiny.WIDTH), "B": tiny.noise(tiny.VOCAB, 2)}
        return held | {f"{module}.lora_{x}.weight": array for x, array in factors.items()}

    tiny.set_config(folder, target_modules=["q_proj", "v_proj", "lm_head"])
    tiny.set_tensors(folder, more)


def unprefixed(folder: Path) -> None:
    """Take the prefix off the names."""
    start = "base_model.model."
    tiny.set_tensors(folder, lambda t: {n.removeprefix(start): a for n, a in t.items()})


# The target, what is done to the bad one, and to the good one.
EXAMPLES: dict[str, tuple[str, Change, Change | None]] = {
    "SRV001": (
        "vllm",
        saved("base_model.model.model.embed_tokens.weight", tiny.VOCAB),
        saved("base_model.model.score.weight", 2),
    ),
    "SRV002": ("sglang", dora, None),
    "SRV003": ("llama.cpp", said(bias="lora_only"), None),
    "SRV004": ("vllm", said(rank_pattern={"o_proj": 1024}), said(rank_pattern={"o_proj": 16})),
    "SRV005": ("sglang", said(use_rslora=True), None),
    "SRV006": ("sglang", said(target_modules=r".*\.(q|v)_proj"), None),
    "SRV007": ("plain", head, None),
    "SRV008": ("vllm", said(peft_type="LOHA"), None),
    "SRV009": ("plain", pickled, None),
    "SRV010": ("sglang", added, plain),
    "SRV011": ("lorax", unprefixed, None),
    "SRV012": ("vllm", said(layer_replication=[[0, 2]]), said(layer_replication=None)),
}


def main() -> None:
    """Write them all."""
    for code, (target, spoil, vary) in EXAMPLES.items():
        good, bad = tiny.pair(code)
        for folder in (good, bad):
            tiny.set_options(folder, target=target)
        spoil(bad)
        if vary:
            vary(good)


if __name__ == "__main__":
    main()
