"""Which tensors of a checkpoint transformers makes each parameter of a model from, and how.

Its own tables and operations say so (transformers 5: conversion_mapping.py, core_model_loading.py):
they are run on planned tensors, for a model without weights. Here are names; `_planned` has the
operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.errors import Unsupported, shown
from adaptertools.layouts import _unpacks, meta
from adaptertools.layouts._blocks import Untraceable
from adaptertools.layouts._conversions import Conversions
from adaptertools.layouts._cut import pieces
from adaptertools.layouts.pieces import Piece
from adaptertools.tensorfile import TensorSpec

_WHY = "How the base's tensors make up the model's parameters is something that transformers says."


class Layout:
    """The parameters of one model, and where in a checkpoint they are."""

    def __init__(
        self, model: Any, shapes: Mapping[str, tuple[int, ...]], turned: Mapping[str, str]
    ) -> None:
        """Take a model on the meta device and the shapes of the checkpoint's tensors, by name.

        `turned` are names of weights that some of these tensors hold transposed.
        """
        self._model = model
        self._shapes = shapes
        self._prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""
        self._said = Conversions(model, shapes, turned)

    def find(self, name: str) -> tuple[Piece, ...]:
        """Give the blocks of the checkpoint that make up a parameter; () where it has none.

        `name` is spelled as in the model, with or without the base-model prefix, as in the
        checkpoint, or as in a checkpoint of older transformers; boxes of the model are relative to
        what is named. Raises Unsupported where an operation of the conversion is not understood.
        """
        value = self._planned(name)
        if value is not None:
            return self._cut(name, value)
        return (Piece(tensor=name),) if name in self._shapes else ()

    def shape(self, name: str) -> tuple[int, ...]:
        """Give the shape of what `find` takes; () where it finds nothing."""
        value = self._planned(name)
        if value is not None:
            return tuple(value.shape)
        return self._shapes.get(name, ())

    def parameters(self, module: str) -> tuple[str, ...]:
        """Give the names of a module's own parameters in their order; () where it is no module."""
        found = self._module(module)
        return () if found is None else tuple(n for n, _ in found.named_parameters(recurse=False))

    def is_transposed(self, module: str) -> bool:
        """Tell whether a module of experts holds its weights as (in, out)."""
        return bool(getattr(self._module(module), "is_transposed", False))

    def _module(self, name: str) -> Any:
        for spelled in self._spellings(name):
            try:
                return self._model.get_submodule(spelled)
            except AttributeError:
                continue
        return None

    def _planned(self, name: str) -> Any:
        """Give the planned tensor of a name, None where the checkpoint does not hold it."""
        spellings = self._spellings(name)
        try:
            for spelled in spellings:
                if (value := self._said.parameter(spelled)) is not None:
                    return value
            if name in self._shapes:
                return None
            older = (self._said.older(spelled) for spelled in spellings)
            return next((value for value in older if value is not None), None)
        except Untraceable as error:
            raise Unsupported(
                f"{shown(name)}: transformers makes it from the checkpoint by {shown(error)}, "
                "which adaptertools cannot follow. Save the base with "
                "save_pretrained(..., save_original_format=False) and merge into that."
            ) from None

    def _cut(self, name: str, value: Any) -> tuple[Piece, ...]:
        shape = tuple(value.shape)
        try:
            return tuple(
                piece
                for block in value.blocks
                for piece in pieces(block, shape, self._shapes[block.tensor])
            )
        except Untraceable:
            raise Unsupported(
                f"{shown(name)}: transformers reorders what the checkpoint has in "
                f"{shown(value.blocks[0].tensor)}, in a way that is no block of a matrix. Save the "
                "base with save_pretrained(..., save_original_format=False) and merge into that."
            ) from None

    def _spellings(self, name: str) -> tuple[str, ...]:
        prefix = self._prefix
        return tuple(dict.fromkeys((name, prefix + name, name.removeprefix(prefix))))


def layout(config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> Layout | None:
    """Say how a checkpoint's tensors, with their logical shapes, make up the model of its config.

    None where transformers does not know the model type or the class. Raises Unsupported where
    transformers is missing, too old (it says nothing before 5.0) or cannot make the model.
    """
    try:
        if not meta.known(config):
            return None
        model = meta.model(config, name := meta.architecture(config))
    except meta.Unmade as error:
        if not str(error):
            raise meta.without(_WHY) from None
        raise Unsupported(
            f"{_WHY} It makes no {shown(name)} of the base's config.json: {shown(error)}. "
            "Update transformers."
        ) from None
    turned = _unpacks.turned(config, tensors)
    packed = {*turned.values()}
    shapes = {n: _unpacks.shape(s) if n in packed else s.shape for n, s in tensors.items()}
    try:
        return Layout(model, shapes, turned)
    except ImportError:  # before 5.0 there was nothing to convert
        raise Unsupported(
            f"{_WHY} The installed one is too old to say it. Update: "
            "pip install --upgrade 'transformers>=5'."
        ) from None
