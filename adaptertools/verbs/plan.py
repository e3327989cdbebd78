"""Plan a merge: everything that will be written, from headers only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from adaptertools import checkpoint, hub
from adaptertools.adapter import Adapter
from adaptertools.checkpoint import Checkpoint
from adaptertools.errors import Mismatch, NotFound, Unsafe, shown
from adaptertools.jobs import FileJob, MergePlan
from adaptertools.report import Finding
from adaptertools.verbs import _config, _files
from adaptertools.verbs._assembly import assemble
from adaptertools.verbs._card import card
from adaptertools.verbs._drafts import Assembly
from adaptertools.verbs._lay_out import lay_out
from adaptertools.verbs._options import Options
from adaptertools.verbs._parent import choose
from adaptertools.verbs._quantise import repack
from adaptertools.verbs.open import open_adapter
from adaptertools.version import VERSION

Refs = str | Path | Adapter | Sequence[str | Path | Adapter]


def plan(
    adapters: Refs, *, base: str | Path | None = None, out: str | Path,
    scale: float | Sequence[float] | None = None, dtype: str | None = None,
    max_shard_size: str | int | None = None, tied: str = "untie",
    mha_out_proj: str | None = None, allow_nonfinite: bool = False, quant: str = "keep",
    rounding: str | None = None, double_quant: bool | None = None, block_size: int | None = None,
    seed: int = 0, min_retention: float | None = None, force: bool = False,
    base_weights: str = "as-stored", original: str | Path | None = None,
    expert_packing: str | None = None,
) -> MergePlan:  # fmt: skip
    """Plan merging adapters into a base, from headers; nothing is written.

    Of packed weights a few rows are read, to foresee what packing will do to the update.

    Args:
        adapters: one or several folders, Hub references or open adapters.
        base: folder or Hub reference; what the first adapter names where it is None.
        out: the folder that a merge will create.
        scale: what each adapter's update is multiplied by; 1 where it is None.
        dtype: stored dtype of every float tensor; the base's own where it is None.
        max_shard_size: such as "5GB"; the base's own shards where it is None.
        tied: "untie" writes tied embeddings out where only one is adapted, "keep" does as PEFT.
        mha_out_proj: "once" or "twice", for MultiheadAttention's out_proj.
        allow_nonfinite: merge NaN and infinity instead of refusing them.
        quant: "keep", "none" (16 bit), "4bit"/"nf4", "fp4", "8bit"/"int8".
        rounding: "adapter", "stochastic", "nearest", or "search", which is nearest on fresh scales
            that fit best; what suits source and target where it is None.
        double_quant, block_size: of 4-bit output; the base's own, else bitsandbytes' defaults.
        seed: fixes stochastic rounding.
        min_retention: leave weights in 16 bit that would keep a smaller share of their update.
        force: let nearest rounding through where it takes most of the adapter back.
        base_weights: "original" merges into the 16-bit parent of a packed base and packs once.
        original: that parent, where the base's name does not tell.
        expert_packing: "peft" or "expert-major", how lora_B holds fused experts; else as its
            config says, or as PEFT has it.

    Raises NotFound, Unreadable, Unsupported, Mismatch or Unsafe; each says what to do.
    """
    options = Options(
        dtype=dtype, max_shard_size=max_shard_size, tied=tied, mha_out_proj=mha_out_proj,
        allow_nonfinite=allow_nonfinite, quant=quant, rounding=rounding, double_quant=double_quant,
        block_size=block_size, seed=seed, min_retention=min_retention, force=force,
        base_weights=base_weights, original=original, expert_packing=expert_packing,
    )  # fmt: skip
    given = [adapters] if isinstance(adapters, str | Path | Adapter) else list(adapters)
    return _planned(given, base, Path(out), scale, options)


def _planned(
    given: Sequence[str | Path | Adapter], base: str | Path | None, out: Path,
    scale: float | Sequence[float] | None, options: Options,
) -> MergePlan:  # fmt: skip
    folder = Path(hub.local(base, "base")) if base is not None else None
    opened = [open_adapter(adapter, base=folder) for adapter in given]
    scales = _scales(scale, len(opened))
    stored = _open_base(base, opened)
    source = choose(stored, options, opened)
    held = source.base
    for inputs in {stored.folder, held.folder}:
        _check_out(out, inputs, opened)
    it = assemble(
        held, list(zip(opened, scales, strict=True)), tied=options.tied,
        mha_out_proj=options.mha_out_proj, expert_packing=options.expert_packing,
        packed=source.packed,
    )  # fmt: skip
    repack(it, held, source.packed, source.wanted, source.chosen)
    if source.said:
        it.say("MRG046", source.said)
    jobs, index, foreseen = lay_out(it, held, options)
    if options.code and it.config:
        it.config = _config.retyped(it.config, options.code)
    _say_order(it)
    _say_base(it, held, opened)
    said = [_describe(a, s) for a, s in zip(opened, scales, strict=True)]
    files, findings = _beside(held, opened, it, index)
    told = options.as_json() | ({"original": held.ref} if held is not stored else {})
    text = card(held.ref, opened[0].base, held.folder, said, told, VERSION, findings)
    return MergePlan(
        out=str(out), base=_describe_base(stored, held), adapters=tuple(said), options=told,
        version=VERSION, jobs=tuple(jobs), files=(*files, FileJob.written("README.md", text)),
        findings=tuple(findings), foreseen=tuple(foreseen),
    )  # fmt: skip


def _scales(scale: float | Sequence[float] | None, count: int) -> list[float]:
    given = [1.0] * count if scale is None else scale
    scales = [float(s) for s in (given if isinstance(given, Sequence) else [given])]
    if len(scales) != count or not count:
        raise Mismatch(f"{count} adapters and {len(scales)} scales were given. Give one for each.")
    if not all(isfinite(s) for s in scales):
        raise Mismatch(f"A scale is not a finite number: {scales}.")
    return scales


def _open_base(base: str | Path | None, adapters: Sequence[Adapter]) -> Checkpoint:
    if base is None:
        base = next((a.base for a in adapters if a.base), None)
    if base is None:
        raise NotFound(f"{shown(adapters[0].ref)} does not name its base model. Pass it as --base.")
    return checkpoint.read(hub.local(base, "base"), str(base))


def _check_out(out: Path, base: str, adapters: Sequence[Adapter]) -> None:
    """Refuse an output that would touch an input; whether it exists is the run's question."""
    target = out.resolve()
    for folder in (base, *(a.folder for a in adapters)):
        source = Path(folder).resolve()
        if target == source or source in target.parents or target in source.parents:
            raise Unsafe(
                f"--out {shown(out)} and {shown(folder)} lie inside one another. "
                "Choose a folder of its own; inputs are never written to."
            )


def _say_order(it: Assembly) -> None:
    """Say so where several updates of one tensor do not simply add up."""
    mixed = [n for n, d in it.drafts.items() if len(d.updates) > 1]
    if mixed and any(not u.additive for n in mixed for u in it.drafts[n].updates):
        it.say(
            "MRG006",
            f"{len(mixed)} tensors take several updates of which some depend on the weight. "
            "They are applied in the given order; another order would give another model.",
        )


def _say_base(it: Assembly, base: Checkpoint, adapters: Sequence[Adapter]) -> None:
    """Say so where an adapter names another base: shapes cannot tell a model from its fine-tune."""
    for adapter in adapters:
        name = Path(adapter.base or base.ref).name
        if name.lower() != Path(base.ref).name.lower():
            it.say("MRG007", f"It names {shown(name)} as its base.", place=adapter.ref)


def _describe(adapter: Adapter, scale: float) -> dict[str, Any]:
    return {"ref": adapter.ref, "format": adapter.format, "method": adapter.method,
            "rank": adapter.rank, "tensors": len(adapter.tensors), "scale": scale,
            "sha256": sha256_of(adapter)}  # fmt: skip


def sha256_of(adapter: Adapter) -> str:
    """Digest an adapter's config and weights: what receipts know it by."""
    digest = hashlib.sha256(json.dumps(dict(adapter.config), sort_keys=True).encode())
    for file in sorted({spec.file for spec in adapter.tensors.values()}):
        with Path(file).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _describe_base(base: Checkpoint, held: Checkpoint) -> dict[str, Any]:
    """Describe the base that was given; the digest is also of the original, where that is held."""
    digest = hashlib.sha256()
    for each in (base,) if held is base else (base, held):
        digest.update(json.dumps(dict(each.config), sort_keys=True).encode())
        for file, header in each.shards.items():
            digest.update(file.encode() + b"\0" + hashlib.sha256(header.raw).digest())
    return {"ref": base.ref, "model_type": base.model_type, "shards": len(base.shards),
            "tensors": len(base.tensors), "headers_sha256": digest.hexdigest()}  # fmt: skip


def _beside(
    base: Checkpoint, adapters: Sequence[Adapter], it: Assembly, index: FileJob | None
) -> tuple[list[FileJob], list[Finding]]:
    files, said = _files.other_files(base, [Path(a.folder) for a in adapters])
    if index is not None:
        files.append(index)
    if it.config == base.config and base.config:
        files.append(FileJob.copied("config.json", f"{base.folder}/config.json"))
    elif it.config:
        files.append(FileJob.written("config.json", json.dumps(it.config, indent=2) + "\n"))
    return files, [*it.findings, *said]
