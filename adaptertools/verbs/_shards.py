"""From drafts to output shards: the base's own layout, or a new one where it was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from adaptertools.checkpoint import INDEX, SINGLE, Checkpoint
from adaptertools.errors import Unreadable, shown
from adaptertools.jobs import Edit, FileJob, ShardJob
from adaptertools.packing import CODES
from adaptertools.tensorfile import BITS, FLOATS, encode_header
from adaptertools.verbs._drafts import Draft

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip


def shard_jobs(
    base: Checkpoint, drafts: Mapping[str, Draft], dtype: str | None, max_size: int | None
) -> tuple[list[ShardJob], FileJob | None]:
    """Lay the drafts out in shards and give the jobs and the index file, if there is one."""
    edits = {name: _edit(name, draft, dtype) for name, draft in drafts.items()}
    if max_size is None:
        homes: dict[str, list[Edit]] = {shard: [] for shard in base.shards}
        for name, edit in edits.items():
            homes[drafts[name].shard].append(edit)
        homes = {shard: held for shard, held in homes.items() if held or shard in base.shards}
    else:
        homes = _resplit(edits.values(), max_size)
    jobs = [_job(base, file, held) for file, held in homes.items()]
    return jobs, _index(base, jobs)


def _edit(name: str, draft: Draft, dtype: str | None) -> Edit:
    source, packed, repack = draft.source, draft.packed, draft.repack
    if packed is not None and repack is not None and repack.kept and not draft.updates:
        source, packed, repack = packed.parts[CODES], None, None  # its bytes are copied
    made = dtype if dtype and source.dtype in FLOATS else draft.dtype
    if draft.side or source is not draft.source:
        made = source.dtype
    return Edit(
        name=name, dtype=made, source=source, stored=draft.stored, why=draft.why,
        updates=tuple(draft.updates), parts=tuple(draft.parts), packed=packed, repack=repack,
        turned=draft.turned,
    )  # fmt: skip


def _job(base: Checkpoint, file: str, edits: list[Edit]) -> ShardJob:
    """Keep the base's header, byte for byte, where name, dtype, shape and order are the same."""
    header = base.shards.get(file)
    now = [part[1:] for edit in edits for part in edit.outputs]
    if header is not None:
        old = [(s.name, s.dtype, s.shape) for s in header.tensors.values()]
        if now == old:
            return ShardJob(file=file, header=header.raw, edits=tuple(edits))
    # Wider dtypes first: readers map tensors in place and need them aligned.
    now.sort(key=lambda part: -BITS[part[1]])
    metadata = dict(header.metadata) if header is not None else {"format": "pt"}
    raw = encode_header(now, metadata)
    return ShardJob(file=file, header=raw, edits=tuple(edits))


def _resplit(edits: Iterable[Edit], max_size: int) -> dict[str, list[Edit]]:
    groups: list[list[Edit]] = [[]]
    room = max_size
    for edit in edits:
        if groups[-1] and edit.nbytes > room:
            groups.append([])
            room = max_size
        groups[-1].append(edit)
        room -= edit.nbytes
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    count = len(groups)
    return {f"model-{i:05d}-of-{count:05d}.safetensors": g for i, g in enumerate(groups, 1)}


def _index(base: Checkpoint, jobs: list[ShardJob]) -> FileJob | None:
    """Copy the base's index where it still holds, write a new one where it does not."""
    made = {out: job.file for job in jobs for edit in job.edits for out in edit.outputs}
    weights = {out.name: file for out, file in made.items()}
    if base.index is None and len(jobs) == 1 and jobs[0].file == SINGLE:
        return None
    sizes = {out.name: prod(out.shape) * BITS[out.dtype] // 8 for out in made}
    size = sum(sizes.values())
    metadata: dict[str, Any] = dict((base.index or {}).get("metadata") or {})
    old = {n: s.nbytes for n, s in base.tensors.items()}
    unchanged = old == sizes
    if base.index is not None and unchanged and weights == base.index["weight_map"]:
        return FileJob.copied(INDEX, f"{base.folder}/{INDEX}")
    if not unchanged:
        metadata.pop("total_parameters", None)
    index = {
        "metadata": {**metadata, "total_size": size},
        "weight_map": dict(sorted(weights.items())),
    }
    return FileJob.written(INDEX, json.dumps(index, indent=2) + "\n")


def parse_size(text: str | int) -> int:
    """Read a size such as `5GB` or `512MiB`; raise Unreadable for anything else."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([a-zA-Z]*)\s*", str(text))
    size = int(float(match[1]) * _UNITS.get(match[2].upper(), 0)) if match else 0
    if size < 1:
        raise Unreadable(f"--max-shard-size {shown(text)} is no size. Write 5GB or 512MiB.")
    return size
