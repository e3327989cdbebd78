"""Which files belong beside an adapter, which are left over, and which are none of its business."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from functools import cache

from adaptertools.facts import File

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
INDEX = "adapter_model.safetensors.index.json"
# What each library calls its weights.
WEIGHTS_OF = {
    "peft": (WEIGHTS, PICKLED), "mlx": ("adapters.safetensors", "adapters.npz"),
    "adapterhub": ("pytorch_adapter.bin", "adapter.safetensors"),
}  # fmt: skip

# What training writes for itself. Folders end in a slash.
LEFTOVERS = (
    "optimizer.*", "optimizer_*", "scheduler.pt", "rng_state*", "random_states*", "scaler.pt",
    "training_args.*", "trainer_state.json", "events.out.tfevents*", "zero_to_fp32.py", "latest",
    "*.log", ".DS_Store", "Thumbs.db", "checkpoint-*/", "global_step*/", "runs/", "wandb/",
    "__pycache__/", ".ipynb_checkpoints/",
)  # fmt: skip
# A whole model, which transformers then loads instead of or beneath the adapter.
WHOLE = (
    "config.json", "model.safetensors", "model-*-of-*.safetensors", "pytorch_model*.bin",
    "tf_model.h5", "flax_model.msgpack", "consolidated*.pth", "consolidated*.safetensors",
    "model.safetensors.index.json",
)  # fmt: skip
# What somebody reads: PEFT, a tokenizer, the Hub, a person.
READ = (
    CONFIG, "adapter_model*", "*.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "COPYING*",
    ".gitattributes", ".gitignore", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab*", "merges.txt", "*.model", "*.tiktoken", "normalizer.json", "chat_template*",
    "additional_chat_templates/*", "*processor_config.json", "generation_config.json",
    "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp", "*.sig", "*.sigstore*", "*.asc",
    "adaptertools.json", "adaptertools.*.json", ".eval_results/*", "figures/*", "images/*",
    "assets/*", "CITATION.cff", "pytorch_lora_weights.safetensors", "new_embeddings.safetensors",
    "modules.json",
)  # fmt: skip
CODE = ("*.py", "*.pyc", "*.pyd", "*.so", "*.so.*", "*.dll", "*.dylib", "*.exe", "Makefile")
SCRIPTS = ("*.sh", "*.bat", "*.cmd", "*.ps1")
SIGNATURES = ("*.sig", "*.sigstore", "*.sigstore.json", "*.asc")

_POINTER = b"version https://git-lfs"
_SIZE = re.compile(rb"^size (\d{1,18})$", re.M)
_POINTERS = 1024  # bytes that a pointer has at most


def like(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a file's name, its last part or one of its folders fits a pattern."""
    folder, whole, last = _compiled(tuple(patterns))
    *folders, own = name.split("/")
    return bool(whole.match(name) or last.match(own) or any(map(folder.match, folders)))


@cache
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Give the patterns of folders, of whole names and of last parts, each as one expression."""
    folders = [pattern[:-1] for pattern in patterns if pattern.endswith("/")]
    whole = [p for p in patterns if "/" in p and not p.endswith("/")]
    last = [p for p in patterns if "/" not in p]
    return tuple(
        re.compile("|".join(map(fnmatch.translate, group)) or "(?!)")  # which matches nothing
        for group in (folders, whole, last)
    )


def pointed(file: File) -> int | None:
    """Give the size that a Git LFS pointer names; None where the file is none."""
    if file.size > _POINTERS:
        return None
    head = file.read(_POINTERS)
    if not head.startswith(_POINTER):
        return None
    size = _SIZE.search(head)
    return int(size[1]) if size else 0


def top(name: str) -> bool:
    """Tell whether a file lies in the folder itself."""
    return "/" not in name
