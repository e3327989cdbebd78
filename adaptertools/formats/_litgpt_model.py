"""What LitGPT writes of a model and of a training, in YAML, and the sizes that follow from it.

Facts from litgpt/config.py (defaults of a Config) and litgpt/lora.py (shapes of the factors).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptertools.errors import NotFound, Unreadable, Unsupported, shown

MODEL, TRAINING = "model_config.yaml", "hyperparameters.yaml"
_LARGEST = 1_000_000  # bytes of YAML
_ODD = {
    "latent_attention": "multi-head latent attention, which LitGPT's LoRA does not adapt",
    "n_shared_expert": "shared experts", "first_k_dense_replace": "dense layers before its experts",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A LitGPT model's config."""

    said: Mapping[str, Any]
    file: str

    @property
    def name(self) -> str:
        """Its name, which tells the family."""
        return str(self.said.get("name") or "")

    @property
    def repo(self) -> str:
        """The repository of its weights, user/name, where the config says it."""
        from_hub = self.said.get("hf_config")
        org, name = (
            (from_hub.get("org"), from_hub.get("name")) if isinstance(from_hub, dict) else (0, 0)
        )
        return f"{org}/{name}" if org and name else ""

    @property
    def kind(self) -> str:
        """The class of its MLP."""
        return str(self.said.get("mlp_class_name") or "GptNeoxMLP")

    @property
    def heads(self) -> tuple[int, int, int]:
        """Number of heads, of key and value heads, and the size of each."""
        heads = self.count("n_head")
        return (
            heads,
            self.count("n_query_groups", heads),
            self.count("head_size", self.width // heads),
        )

    @property
    def width(self) -> int:
        """The size of a hidden state."""
        return self.count("n_embd")

    def rows(self, part: str) -> int:
        """Give the rows of q, k or v."""
        heads, groups, size = self.heads
        return size * (heads if part == "q" else groups)

    def shape(self, module: str) -> tuple[int, int]:
        """Give the (out, in) of a module's weight, by LitGPT's name without the layer."""
        heads, _, size = self.heads
        inner = self.count("intermediate_size", 4 * self.width)
        if ".experts." in module:
            inner = self.count("moe_intermediate_size", inner)
        match module.rpartition(".")[2]:
            case "lm_head":
                return self.vocabulary, self.width
            case "gate":
                return self.count("n_expert"), self.width
            case "proj" if module.startswith("attn"):
                return self.width, heads * size
            case "proj":
                return self.width, inner
        return inner, self.width

    @property
    def vocabulary(self) -> int:
        """Rows of the head."""
        step, words = self.count("padding_multiple", 512), self.count("vocab_size", 50254)
        return self.count("padded_vocab_size", -(-words // step) * step)

    def count(self, key: str, default: int = 0) -> int:
        """Give a size; raise Unreadable where it is none."""
        value = self.said.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 2**31:
            raise Unreadable(f"{shown(self.file)}: {key} is {shown(value)}, a size was expected.")
        return value


def model(*folders: Path | None) -> Model:
    """Read the model's config from the first folder that has it.

    Raises NotFound where none has, Unreadable where it is no map, Unsupported for a model of
    which the factors' places are not known.
    """
    path = next((p for f in folders if f and (p := f / MODEL).is_file()), None)
    if path is None:
        raise NotFound(
            f"No {MODEL} says how LitGPT lays out the model. Pass its folder of the base as "
            "--base: the one that `litgpt download` makes."
        )
    made = Model(said=read_yaml(path), file=str(path))
    for key, what in _ODD.items():
        if made.said.get(key):
            raise Unsupported(f"{shown(path)}: the model has {what} ({key}). Merge it with LitGPT.")
    return made


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a map; raise Unreadable where it is none, or larger than any of LitGPT's."""
    import yaml

    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")
        value = yaml.safe_load(path.read_text("utf-8"))
    # What PyYAML raises for tags on values that they do not fit is of many kinds.
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as e:
        raise Unreadable(
            f"{shown(path)} is not YAML: {shown(' '.join(str(e).split()))}. Fetch it again."
        ) from None
    if not isinstance(value, dict):
        raise Unreadable(f"{shown(path)} is no map of names to values. Fetch it again.")
    return value
