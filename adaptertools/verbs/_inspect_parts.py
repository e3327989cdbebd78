"""Which module each tensor belongs to, with rank, alpha and scale where a format resolves them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptertools import peft_keys
from adaptertools.adapter import Adapter, Entry
from adaptertools.checks._names import meant, names
from adaptertools.errors import AdapterToolsError
from adaptertools.formats import peft
from adaptertools.formats._peft_scale import possible, scaled
from adaptertools.tensorfile import TensorSpec
from adaptertools.verbs._inspect_config import number, word
from adaptertools.verbs._inspect_held import Held, hold

SAVED, ROWS, IGNORED = "saved whole", "token rows", "not needed"
_SHARED = ("", "base_model")  # where tensors lie that all modules share


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """What is stored for one module; None is unknown."""

    target: str
    parts: Mapping[str, TensorSpec]
    rank: float | None = None
    alpha: float | None = None
    scale: float | None = None

    @property
    def weight(self) -> tuple[int, ...] | None:
        """The shape of the weight that a plain LoRA changes: out, in, as nn.Linear stores it."""
        held = self.parts
        if "lora_embedding_A" in held and "lora_embedding_B" in held:
            return held["lora_embedding_A"].columns, held["lora_embedding_B"].rows
        if "lora_A" not in held or "lora_B" not in held:
            return None
        down, up = held["lora_A"], held["lora_B"]
        plain = down.rows == self.rank == up.columns  # not so where experts or blocks are fused
        return (up.rows, *down.shape[1:]) if plain else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything that an adapter stores, each tensor once."""

    modules: tuple[Module, ...] = ()
    saved: tuple[str, ...] = ()  # whole tensors, by the names of the model
    unlisted: tuple[str, ...] = ()  # those of them that modules_to_save does not list
    biases: int = 0  # those of them that are the base's biases, trained along
    rows: Mapping[str, int] = field(default_factory=dict)  # embedding -> rows that were trained
    others: tuple[str, ...] = ()  # tensors that belong to no module, by their own names
    roles: Mapping[str, str] = field(default_factory=dict)  # tensor -> what it is
    adapter: Adapter | None = None  # in the normal form, where there is one
    why: str = ""  # why there is none


def contents(held: Held) -> Contents:
    """Sort the tensors of a folder; what cannot be read as PEFT's is sorted by name alone."""
    method = word(held.words, held.config, "method")
    if held.words != "peft" or not held.tensors:
        return Contents(others=tuple(held.tensors))
    if method is None:
        return Contents(others=tuple(held.tensors), why="The config names no peft_type.")
    try:
        adapter = held.adapter or peft.build(held.config, held.tensors, Path(held.folder), held.ref)
    except FileNotFoundError:  # it was not fetched, and to tell takes some of the tensors
        return contents(hold(held.source or held.ref, deep=True))
    except (AdapterToolsError, OSError) as error:  # OSError: a pickle's views cannot be compared
        # The format knows LoRA's names; of another method's it may think what is not so.
        return _by_name(held, method, str(error) if method == "LORA" else "")
    return _normal(held, adapter)


def _normal(held: Held, adapter: Adapter) -> Contents:
    """Take what the format made of it."""
    own = [entry for entry in adapter.entries if entry.target not in _SHARED]
    plain = adapter.method == "LORA"
    whole = [s for s in adapter.saved if plain or s.own]
    roles = {spec.name: role for entry in own for role, spec in entry.parts.items()}
    roles |= {saved.spec.name: SAVED for saved in whole}
    roles |= {rows.spec.name: ROWS for rows in adapter.rows}
    roles |= dict.fromkeys(adapter.ignored, IGNORED)
    return Contents(
        modules=tuple(_module(entry, held, plain) for entry in own),
        saved=tuple(saved.name for saved in whole),
        unlisted=tuple(s.name for s in whole if not s.own and ".base_layer." not in s.spec.name),
        biases=sum(_trained_bias(s.name, held.config) for s in whole),
        rows={rows.target: len(rows.indices) for rows in adapter.rows},
        others=tuple(name for name in held.tensors if name not in roles), roles=roles,
        adapter=adapter,
    )  # fmt: skip


def _module(entry: Entry, held: Held, plain: bool) -> Module:
    """Give rank and scale as the format resolved them; of other methods what the config says."""
    if not plain:
        rank, alpha = (number("peft", held.config, key) for key in ("rank", "alpha"))
        return Module(target=entry.target, parts=entry.parts, rank=rank, alpha=alpha)
    known = _scaled(entry, held.config)
    if known is None:
        return Module(target=entry.target, parts=entry.parts)
    rank, scale = known
    # The format gives alpha / r, or alpha / sqrt(r).
    alpha = scale * (rank**0.5 if held.config.get("use_rslora") else rank)
    return Module(
        target=entry.target, parts=entry.parts, rank=rank, scale=scale, alpha=float(f"{alpha:.12g}")
    )


def _scaled(entry: Entry, config: Mapping[str, Any]) -> tuple[int, float] | None:
    """Give rank and scale; None for a parameter of which only the base says which it is."""
    if not config.get("target_parameters") or entry.nested:
        return entry.rank, entry.scale
    try:
        ways = {scaled(config, name) for name in possible(config, entry.target)}
    except AdapterToolsError:
        return None
    return ways.pop() if len(ways) == 1 else None


def _trained_bias(name: str, config: Mapping[str, Any]) -> bool:
    """Tell a bias of the base from that of a head that modules_to_save lists."""
    listed = config.get("modules_to_save") or ()
    module = name.removesuffix(".bias")
    trained = config.get("bias") not in (None, "", "none") and module != name
    return trained and not any(f".{part}." in f".{module}." for part in listed)


def _by_name(held: Held, method: str, why: str) -> Contents:
    """Sort by names alone."""
    found: dict[str, dict[str, TensorSpec]] = {}
    roles: dict[str, str] = {}
    junk: Counter[str] = Counter()
    for name, spec in held.tensors.items():
        key = peft_keys.parse(name, peft.marker(method), junk)
        role = ".".join(filter(None, (key.role, key.adapter)))
        if role and key.target not in _SHARED and role not in found.get(key.target, ()):
            found.setdefault(key.target, {})[role] = spec
            roles[name] = role
    modules = [Module(target=t, parts=p, rank=_stored(p)) for t, p in found.items()]
    others = tuple(name for name in held.tensors if name not in roles)
    return Contents(modules=tuple(modules), others=others, roles=roles, why=why)


def _stored(parts: Mapping[str, TensorSpec]) -> int | None:
    """Give the rank that is stored, as the rows of the down projection."""
    down = next((spec for role, spec in parts.items() if role.startswith("lora_A")), None)
    return down.rows if down else None


def misranked(found: Contents, config: Mapping[str, Any]) -> dict[str, int]:
    """Give the modules whose down projection has another rank than the config: rows by name."""
    if config.get("target_parameters") or found.adapter is None:
        return {}
    downs = ("lora_A", "lora_embedding_A")
    rows = {m.target: m.parts[d].rows for m in found.modules for d in downs if d in m.parts}
    ranks = {m.target: m.rank for m in found.modules if m.scale is not None}
    return {target: n for target, n in rows.items() if target in ranks and n != ranks[target]}


def ghosts(found: Contents, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the targets that the config lists and no tensor is for; PEFT compares ends of names."""
    listed = names(config.get("target_modules"))
    targets = (*(module.target for module in found.modules), *found.rows)
    there = {name for _, name in meant(targets, listed)}
    return tuple(name for name in listed if found.modules and name not in there)
