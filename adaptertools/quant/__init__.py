"""How is one weight packed? One file per packing: bits of one weight, no adapter, no folder.

The file name is the registration. A module finds its weights among a base's stored tensors; those
that can be made from values also give a writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from adaptertools.packing import Packed, Writer
from adaptertools.tensorfile import TensorSpec


class Quant(Protocol):
    """What every module of this room has."""

    methods: frozenset[str]  # the values of quantization_config["quant_method"] it occurs under

    def packed(
        self, config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]
    ) -> dict[str, Packed]:
        """Find the weights of this packing: logical tensor name -> how it is packed.

        `config` is the base's quantization_config. Raises Unreadable where parts are missing or
        disagree, Unsupported where a variant is understood and not handled.
        """
        ...


class Writable(Quant, Protocol):
    """What a packing has that can be made from 16-bit values."""

    def writer(self, *, double_quant: bool, block_size: int) -> Writer:
        """Give the codec with these settings; raise Unsupported for settings it does not have."""
        ...
