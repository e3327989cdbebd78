"""What a file of a repository is by its name: needed by an adapter or a model, or why not."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Sequence

from adaptertools.errors import first, shown

CONFIG = "adapter_config.json"
PICKLED = ("adapter_model.bin", "pytorch_adapter.bin", "pytorch_lora_weights.bin")

# Beside the weights of an adapter: what PEFT, transformers and servers read, and what people read.
_ADAPTER = (
    CONFIG, "config.json", "generation_config.json", "head_config.json", "README.md",
    "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "COPYING*",
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "spiece.model", "*.model", "*.tiktoken", "chat_template.*", "*.jinja",
    "normalizer.json", "*processor_config.json",
)  # fmt: skip
_TEMPLATES = ("additional_chat_templates/*.jinja",)
_WEIGHTS = ("*.safetensors", "adapters.npz")
_WHOLE = ("model*.safetensors", "pytorch_model*", "consolidated*", "diffusion_pytorch_model*",
          "tf_model*", "flax_model*", "*.gguf", "model*.bin")  # fmt: skip
# What merging needs of a base: no pickles, optimizer states or other frameworks' weights.
_MODEL = (
    "*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "*.md",
    "*.py",
)  # fmt: skip
_TRAINING = (
    "optimizer.*", "scheduler.pt", "scheduler.bin", "rng_state*", "scaler.pt", "trainer_state.json",
    "trainer_log*", "training_args*", "all_results.json", "train_results.json", "eval_results.json",
    "events.out.*", "*.distcp", "*_optim_states.pt", "*_model_states.pt", "zero_to_fp32.py",
    "latest", "[0-9]*_adapters.safetensors", "*.log",
)  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib", "*.npy")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a pattern fits as `hf` has it: `*` crosses slashes, and `x/` is all below x."""
    whole = (f"{p}*" if p.endswith("/") else p for p in (p.replace("\\", "/") for p in patterns))
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in whole)


def not_of_adapter(files: Collection[str]) -> dict[str, str]:
    """Say of each file that an adapter does not need why that is."""
    plain = [name for name in files if "/" not in name]
    weights = {name for name in plain if is_weights(name)}
    pickled = next((name for name in PICKLED if name in files and not weights), None)
    homes = sorted(n.removesuffix(f"/{CONFIG}") for n in files if n.endswith(f"/{CONFIG}"))
    left = {}
    for name in files:
        listed = name in weights or name == pickled or matches(name, (*_ADAPTER, *_TEMPLATES))
        if "/" in name and not matches(name, _TEMPLATES):
            left[name] = _below(name, homes)
        elif matches(name, _TRAINING):
            left[name] = "state of the training run"
        elif not listed:
            left[name] = _why(name, bool(weights))
    return left


def is_weights(name: str, *, pickled: bool = False) -> bool:
    """Tell whether a file is an adapter's weights; `pickled` counts pickles too."""
    if pickled and name in PICKLED:
        return True
    return matches(name, _WEIGHTS) and not matches(name, (*_WHOLE, *_TRAINING))


def _why(name: str, weights: bool) -> str:
    if name in PICKLED and weights:
        return "the weights once more, pickled"
    if matches(name, _WHOLE):
        return "weights of a whole model"
    return "a pickle, which can run code" if matches(name, _PICKLES) else "no part of an adapter"


def _below(name: str, homes: Sequence[str]) -> str:
    home = next((home for home in homes if name.startswith(f"{home}/")), None)
    return f"part of the adapter in {shown(home)}" if home else "in a folder below"


def not_of_model(files: Collection[str]) -> dict[str, str]:
    """Say of each file that a merge does not need of a model why that is."""
    left = {}
    for name in files:
        if matches(name.rpartition("/")[2], _TRAINING):
            left[name] = "state of the training run"
        elif matches(name, _PICKLES):
            left[name] = "a pickle, which can run code"
        elif not matches(name, _MODEL):
            left[name] = "nothing that a merge needs"
    return left


def instead(files: Collection[str]) -> str:
    """Say what a place without an adapter is."""
    names = sorted(name for name in files if "/" not in name)
    if whole := [name for name in names if matches(name, _WHOLE)]:
        return f"but a whole model ({first(whole, 2)}): a base or a merged one"
    if state := [name for name in names if matches(name, _TRAINING)]:
        return f"but the state of a training run ({first(state, 2)})"
    return f"but {first(files)}" if files else "and no file at all"
