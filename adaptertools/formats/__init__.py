"""How an adapter is spelled on disk. One file per format; it knows names and files, no maths.

A format file recognises its folder and reads it into the normal form, scale resolved; and it
writes that form. One that only reads or only writes leaves the other half away. A file says of
itself what it can hold besides factors (HOLDS), and with which tool's reader that was proved.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from adaptertools.adapter import Adapter
from adaptertools.report import Finding

# What an adapter may have besides the two factors of each module, in words.
EXTRAS: Mapping[str, str] = {
    "dora": "DoRA's magnitudes",
    "lora_bias": "biases of lora_B",
    "saved": "tensors that are saved whole",
    "along": "weights of the base that were saved along",
    "rows": "trained rows of an embedding",
    "conv": "factors of convolutions",
    "embedding": "factors of embeddings",
    "nested": "factors inside a MultiheadAttention",
}


class Format(Protocol):
    """What a file that reads has."""

    def matches(self, files: Collection[str]) -> bool:
        """Tell from the file names whether the folder, or one named file, is of this format."""
        ...

    def read(self, path: Path, ref: str) -> Adapter:
        """Read a folder, or the file that the user named, into the normal form."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the user wants of an output."""

    dtype: str | None = None  # a header's code; None keeps what is stored where that is exact
    rank: int | None = None  # pad to it
    base: Path | None = None  # the base's folder, of which config and headers are looked at
    options: Mapping[str, str] = field(default_factory=dict)  # of one format only


@dataclass(slots=True, kw_only=True)
class Wrote:
    """What a writer did."""

    files: list[str]
    tensors: int
    nbytes: int
    error: float = 0.0  # the largest of any tensor, relative to its norm: 0 is bit for bit
    folded: list[str] = field(default_factory=list)  # modules whose scale is in their factors
    padded: list[str] = field(default_factory=list)  # modules whose rank grew by zeros
    findings: list[Finding] = field(default_factory=list)


class Writer(Protocol):
    """What a file that writes has.

    It may also have OPTIONS, what -o NAME=VALUE says to it, and METHODS, those besides LoRA that it
    is given as they are.
    """

    HOLDS: frozenset[str]  # of EXTRAS
    SUFFIX: str  # of a format that is one file, else ""
    LACKS: str  # what it cannot hold, in words
    PROVED: str  # the tool and version whose reader has read what this file writes

    def write(self, adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
        """Write a LoRA whose extras are among HOLDS into an empty folder."""
        ...
