"""What a GGUF adapter must know of its base: architecture, heads, layers, ties; from a config, from
the base's own GGUF, or from both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptertools import checkpoint
from adaptertools.errors import Mismatch, NotFound, Unsupported, first, shown
from adaptertools.formats import Ask, _gguf_file, _gguf_names
from adaptertools.formats._gguf_file import Gguf
from adaptertools.formats._gguf_names import Arch, Place

_OPTIONS = ("arch", "base_gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base, as far as it is known; None where nothing says."""

    arch: str
    known: Arch
    heads: int | None = None
    kv_heads: int | None = None
    blocks: int | None = None
    experts: int | None = None
    tied: bool = False  # the output projection is the input embedding
    file: Gguf | None = None

    def rows(self, part: str) -> int | None:
        """Give the heads whose rows llama.cpp interleaves in a weight; None where it does not.

        Raises Unsupported where it does, and nothing says how many heads there are.
        """
        if not self.known.permuted or part not in ("attn_q", "attn_k"):
            return None
        heads = self.heads if part == "attn_q" else self.kv_heads or self.heads
        if heads is None:
            raise Unsupported(
                f"llama.cpp reorders the rows of q and k in {shown(self.arch)} models by the "
                "number of heads, which nothing here says. Pass --base, a folder whose config.json "
                "has num_attention_heads."
            )
        return heads


def asked(ask: Ask) -> Base:
    """Describe the base that the user named, as a config, as a GGUF file or both.

    Raises Unsupported where none is named or its architecture is not known, Mismatch where the two
    are different.
    """
    if odd := sorted(ask.options.keys() - set(_OPTIONS)):
        raise Unsupported(f"gguf has no option {first(odd)}. Known: {', '.join(_OPTIONS)}.")
    given, folder = ask.options.get("base_gguf"), None
    if ask.base is not None:
        folder = of(ask.base, ask.options.get("arch"))
    if given is None:
        if folder is None:
            raise Unsupported(
                "A GGUF adapter names the tensors of its base's architecture, and no base is "
                "there. Pass --base with its folder or name, or with its GGUF file."
            )
        return folder
    model = of_model(Path(given))
    if folder is not None and folder.arch != model.arch:
        raise Mismatch(
            f"{shown(given)} is of the architecture {shown(model.arch)}, and the base's config of "
            f"{shown(folder.arch)}. Give two files of one model."
        )
    return model


def of(path: Path, arch: str | None = None) -> Base:
    """Describe a base by its folder or by its GGUF file."""
    if path.is_file() and path.suffix == ".gguf":
        return of_model(path)
    return of_config(path, arch)


def of_config(folder: Path, arch: str | None = None) -> Base:
    """Describe a base by its config.json."""
    path = folder / "config.json" if folder.is_dir() else folder
    if not path.is_file():
        raise NotFound(f"{shown(folder)} has no config.json. Give the folder of the base model.")
    whole = checkpoint.read_json(path)
    inner = whole.get("text_config")
    config = {**inner, **whole} if isinstance(inner, dict) else whole
    name = arch or _gguf_names.arch_of(str(whole.get("model_type") or ""))
    known = _gguf_names.arch(name)
    tied = config.get("tie_word_embeddings")
    heads = _count(config, "num_attention_heads", "n_head")
    return Base(
        arch=name, known=known, heads=heads,
        kv_heads=_count(config, "num_key_value_heads") or heads,
        blocks=_count(config, "num_hidden_layers", "n_layer"),
        experts=_count(config, "num_local_experts", "num_experts"),
        tied="lm_head" not in known.ends or bool(known.ties if tied is None else tied),
    )  # fmt: skip


def of_model(path: Path) -> Base:
    """Describe a base by its GGUF file."""
    if not path.is_file():
        raise NotFound(f"{shown(path)}: no such file. The base's GGUF file was expected.")
    file = _gguf_file.read(path)
    if file.keys.get("general.type", "model") != "model":
        raise Mismatch(f"{shown(path)} is no model. The base's GGUF file was expected.")
    return _of(file, tied="output.weight" not in file.tensors, kept=file)


def of_adapter(file: Gguf) -> Base:
    """Describe a base by what an adapter's own file says of it."""
    return _of(file, tied=False, kept=None)


def _of(file: Gguf, *, tied: bool, kept: Gguf | None) -> Base:
    heads = file.number("attention.head_count")
    return Base(
        arch=file.arch, known=_gguf_names.arch(file.arch), heads=heads,
        kv_heads=file.number("attention.head_count_kv") or heads, tied=tied, file=kept,
        blocks=file.number("block_count"), experts=file.number("expert_count"),
    )  # fmt: skip


def check(base: Base, place: Place, target: str) -> None:
    """Refuse a module that the base does not have, or whose LoRA llama.cpp cannot run."""
    if base.tied and place.part in ("output", "token_embd"):
        raise Unsupported(
            f"{shown(target)}: input and output embedding of this base are one tensor, and "
            f"llama.cpp {_TIED[place.part]}. Export the base with a separate output.weight and "
            "tie_word_embeddings false, or train without the module."
        )
    for what, at, count in (("layer", place.block, base.blocks),
                            ("expert", place.expert, base.experts)):  # fmt: skip
        if at is not None and count is not None and at >= count:
            raise Mismatch(f"{shown(target)}: the base has {count} {what}s. Is it another model?")


_TIED = {
    "output": "has no output.weight then, so it would not load the adapter",
    "token_embd": "aborts at the first token of a LoRA on it",
}


def fits(base: Base, name: str, shape: tuple[int, int]) -> None:
    """Hold a weight's name and (out, in) against the base's GGUF, where one is given."""
    if base.file is None:
        return
    held = base.file.tensors.get(name)
    if held is None:
        raise Mismatch(
            f"{shown(base.file.path)} has no {shown(name)}, which the LoRA is for. Is it another "
            "model?"
        )
    if held.shape[-2:] != shape:
        raise Mismatch(
            f"{shown(name)}: the LoRA is for {list(shape)}, the weight of "
            f"{shown(base.file.path)} is {list(held.shape[-2:])}. Is it another model?"
        )


def _count(config: Mapping[str, Any], *keys: str) -> int | None:
    values = (config.get(key) for key in keys)
    return next((v for v in values if type(v) is int and v > 0), None)
