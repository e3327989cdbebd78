"""The plan: what will be written, tensor by tensor, before a byte of it is.

The waist of the hourglass. Everything here pickles, holds no open file and knows no engine; a job
is one output shard, may read any input file, and does not assume that it runs where it was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from adaptertools.packing import CODES, Packed, Part, Repack
from adaptertools.report import Finding, plain
from adaptertools.rounding import Rounding
from adaptertools.tensorfile import BITS, TensorSpec
from adaptertools.update import Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One output tensor: where its base values come from, and what changes them.

    Without updates and with the source's dtype and packing the bytes are copied untouched. A packed
    source or output is one logical weight here, `source` its logical spec, `dtype` the logical one.
    """

    name: str
    dtype: str
    source: TensorSpec
    updates: tuple[Update, ...] = ()
    why: str = ""  # for a tensor that is not the base's own: "saved in A", "tied copy of B"
    parts: tuple[str, ...] = ()  # the adapter tensors it consumes
    packed: Packed | None = None  # how the source is packed
    repack: Repack | None = None  # how the output is packed
    turned: bool = False  # the output is the source's transpose: Conv1D beside nn.Linear
    # The shape of a tensor of three axes that is edited as the matrix of all its rows, which
    # `source` and `packed` are then.
    stored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """See a packed weight as the same matrix."""
        if self.stored and self.packed is not None:
            object.__setattr__(self, "packed", replace(self.packed, shape=self.source.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Its logical shape as it is stored: the source's, or its transpose."""
        shape = self.stored or self.source.shape
        return (*shape[:-2], shape[-1], shape[-2]) if self.turned else shape

    @property
    def outputs(self) -> tuple[Part, ...]:
        """The tensors that it writes; with kept scales only the codes."""
        if self.repack is None:
            return (Part(CODES, self.name, self.dtype, self.shape),)
        if self.repack.kept and self.packed is not None:
            codes = self.packed.parts[CODES]
            return (Part(CODES, self.name, codes.dtype, codes.shape),)
        return self.repack.codec.parts(self.name, self.shape, self.dtype)

    @property
    def sources(self) -> frozenset[str]:
        """The files that hold its base tensors."""
        parts = self.packed.parts.values() if self.packed is not None else ()
        return frozenset({self.source.file, *(spec.file for spec in parts)})

    @property
    def nbytes(self) -> int:
        """Its size in the output."""
        return sum(prod(out.shape) * BITS[out.dtype] // 8 for out in self.outputs)

    @property
    def plain(self) -> bool:
        """Whether neither its source nor its output is packed or turned."""
        return self.packed is None and self.repack is None and not self.turned

    @property
    def copied(self) -> bool:
        """Whether its bytes are the source's."""
        return not self.updates and self.plain and self.dtype == self.source.dtype

    def describe(self) -> dict[str, Any]:
        """Say it in JSON."""
        return {
            "tensor": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "source": self.source.name,
            "why": self.why,
            "updates": [dict(update.describe()) for update in self.updates],
            "parts": list(self.parts),
            **self._packing(),
        }

    def _packing(self) -> dict[str, Any]:
        if self.plain:
            return {}
        said = {"from": self.packed.codec.kind if self.packed else "plain", "to": "plain"}
        return {"packing": said | (self.repack.describe() if self.repack else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """One output shard: its header and its tensors, in the order of the file."""

    file: str
    header: bytes
    edits: tuple[Edit, ...]

    @property
    def places(self) -> dict[str, int]:
        """Where each tensor begins in the file."""
        entries = json.loads(self.header[8:])
        return {
            name: len(self.header) + entry["data_offsets"][0]
            for name, entry in entries.items()
            if name != "__metadata__"
        }

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(edit.nbytes for edit in self.edits)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJob:
    """One file beside the weights: copied from a path, or written with this text."""

    name: str
    sha256: str  # of what will be in it
    source: str = ""
    text: str | None = None

    @classmethod
    def copied(cls, name: str, source: str | Path) -> FileJob:
        """Plan a copy."""
        with Path(source).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(name=name, sha256=digest, source=str(source))

    @classmethod
    def written(cls, name: str, text: str) -> FileJob:
        """Plan a file with this text."""
        return cls(name=name, sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)

    def describe(self) -> dict[str, str]:
        """Say it in JSON: its name, the digest of what is in it, and where that comes from."""
        said = {"name": self.name, "sha256": self.sha256}
        return said if self.text is not None else {**said, "from": self.source}


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePlan:
    """Everything that a merge will do; print it, dump it, check it, run it."""

    out: str
    base: Mapping[str, Any]  # ref, digest of its headers
    adapters: tuple[Mapping[str, Any], ...]  # ref, digest of its bytes, scale
    options: Mapping[str, Any]
    version: str
    jobs: tuple[ShardJob, ...]
    files: tuple[FileJob, ...]
    findings: tuple[Finding, ...]
    foreseen: tuple[Rounding, ...] = ()  # what packing will do to updates, from a few rows

    @property
    def nbytes(self) -> int:
        """Size of the output's weights."""
        return sum(job.nbytes for job in self.jobs)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The tensors that are not copied from the base as they are."""
        return tuple(e for job in self.jobs for e in job.edits if not e.copied or e.why)

    def as_json(self) -> dict[str, Any]:
        """Give what schemas/plan.schema.json describes."""
        body = self._body()
        # Measured, so not in the digest: the last digit may differ from machine to machine.
        foreseen = [plain(asdict(rounding)) for rounding in self.foreseen]
        return {"out": self.out, **body, "foreseen": foreseen, "digest": _digest(body)}

    @property
    def digest(self) -> str:
        """Name base headers, adapter bytes, options and version in one hash; guards `--resume`."""
        return _digest(self._body())

    def _body(self) -> dict[str, Any]:
        return {
            "verb": "merge",
            "version": self.version,
            "base": dict(self.base),
            "adapters": [dict(adapter) for adapter in self.adapters],
            "options": dict(self.options),
            "shards": [
                {
                    "file": job.file,
                    "bytes": job.nbytes,
                    "copied": sum(edit.copied and not edit.why for edit in job.edits),
                    "edits": [e.describe() for e in job.edits if not e.copied or e.why],
                }
                for job in self.jobs
            ],
            "files": [file.describe() for file in self.files],
            "findings": [asdict(finding) for finding in self.findings],
        }


def _digest(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
