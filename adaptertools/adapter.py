"""The normal form of an adapter: what it stores for each module, whatever file it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """The nn.Parameter that an entry changes (`target_parameters`), as the base has it."""

    parameter: str  # its full name, in the words of the model
    shape: tuple[int, ...]  # (experts, rows, columns), or of one matrix
    turned: bool = False  # (B·A)ᵀ is added to each expert
    rank_major: bool = True  # the columns of B: rank slowest, as PEFT has it, or expert slowest


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What an adapter stores for one module, its scale already resolved."""

    target: str  # the module, in the words of the model that was trained
    parts: Mapping[str, TensorSpec]  # role -> tensor: "lora_A", "lora_B", "lora_B.bias" …
    scale: float  # alpha / r, alpha / sqrt(r), … after patterns
    rank: int
    nested: bool = False  # stored under `base_layer` of another adapted module
    # With target_parameters several parameters of one module are nested: how many are around it.
    depth: int = 0
    # Its parameter, once a base has said which that is; until then rank and scale are the module's.
    fused: Fused | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A whole tensor that takes the place of the base's, or that the base lacks."""

    name: str  # the tensor, in the words of the model that was trained
    spec: TensorSpec
    own: bool  # a trained copy (modules_to_save, bias), not the base weight saved along


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRows:
    """Rows of an embedding that were trained (`trainable_token_indices`)."""

    target: str
    spec: TensorSpec
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter, from its config and headers only."""

    ref: str  # as the user named it
    folder: str
    format: str
    method: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    entries: tuple[Entry, ...]
    saved: tuple[Saved, ...] = ()
    rows: tuple[TokenRows, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)  # tensor -> why it says nothing
    stripped: Mapping[str, int] = field(default_factory=dict)  # junk in names -> how often
    shared: Mapping[str, TensorSpec] = field(default_factory=dict)  # used by all modules: "vera_A"

    @property
    def base(self) -> str | None:
        """The base it names."""
        return self.config.get("base_model_name_or_path") or None

    @property
    def rank(self) -> int:
        """The largest rank of any module; 0 where no module has one."""
        return max((entry.rank for entry in self.entries), default=0)

    @property
    def targets(self) -> tuple[str, ...]:
        """The kinds of module it adapts, by their last name."""
        return tuple(sorted({entry.target.rpartition(".")[2] for entry in self.entries}))

    @property
    def nbytes(self) -> int:
        """Size of its tensors in bytes."""
        return sum(spec.nbytes for spec in self.tensors.values())


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of an update, read when needed: flattened, in blocks, scaled, transposed."""

    spec: TensorSpec
    blocks: int = 1  # rows stored as chunks of a block-diagonal matrix (BD-LoRA)
    diagonal: TensorSpec | None = None  # multiplies the columns (KaSA)
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns as they enter the product."""
        shape = (self.spec.rows, self.spec.columns * self.blocks)
        return shape[::-1] if self.transposed else shape

    @property
    def ranged(self) -> bool:
        """Whether it is stored as it is used, so that rows can be read by themselves."""
        return self.blocks == 1 and self.diagonal is None and not self.transposed

    def read(self, dtype: str) -> Array:
        """Load it in this dtype."""
        import numpy as np

        array = tensorfile.read(self.spec).astype(dtype).reshape(self.spec.rows, self.spec.columns)
        if self.blocks > 1:
            chunks = np.split(array, self.blocks)
            array = np.zeros((self.spec.rows, self.spec.columns * self.blocks), dtype)
            for i, chunk in enumerate(chunks):
                rows, columns = chunk.shape
                array[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = chunk
        if self.diagonal is not None:
            array = array * tensorfile.read(self.diagonal).astype(dtype).reshape(1, -1)
        return np.ascontiguousarray(array.T) if self.transposed else array

    def pick(self, rows: slice, columns: slice, dtype: str) -> Array:
        """Load some rows and columns, of a factor that is stored as it is used."""
        import numpy as np

        # Mapped: of one expert's columns among many, reading and widening all would be the work.
        stored = np.memmap(
            self.spec.file, tensorfile.dtype_of(self.spec.dtype), "r", self.spec.start,
            (self.spec.rows, self.spec.columns),
        )  # fmt: skip
        return np.array(stored[rows, columns], dtype, order="C")

    def rows(self, start: int, stop: int, dtype: str) -> Array:
        """Load some rows, of a factor that is stored as it is used."""
        spec, size = self.spec, self.spec.nbytes // max(self.spec.rows, 1)
        part = spec._replace(
            shape=(stop - start, spec.columns),
            start=spec.start + start * size,
            stop=spec.start + stop * size,
        )
        return tensorfile.read(part).astype(dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Everything a method may know to write an update: an entry and the base's tensors for it."""

    entry: Entry
    config: Mapping[str, Any]
    weight: TensorSpec  # as stored; a replacement where the adapter brings one
    bias: TensorSpec | None
    transposed: bool  # stored (in, out)
    attention: bool  # the weight is a fused in_proj, or the out_proj beside one
    scale: float = 1.0  # what the user asked for this adapter
    mha_out_proj: str | None = None  # "once" or "twice", where the user said so
    shared: Mapping[str, TensorSpec] = field(default_factory=dict)  # role -> tensor of all modules
    # Target -> (out, in) of every module that the adapter changes, as nn.Linear has it.
    peers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    order: Callable[[], tuple[str, ...]] = tuple  # all modules' names in the model's own order

    @property
    def shape(self) -> tuple[int, int]:
        """Give (out, in) as nn.Linear has it, a convolution's further axes flattened into in."""
        rows, columns = self.weight.rows, self.weight.columns
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def index(self) -> int:
        """Give the module's place among those that the adapter changes, in the model's order."""
        return [name for name in self.order() if name in self.peers].index(self.entry.target)
