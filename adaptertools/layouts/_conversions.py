"""transformers' conversions of a checkpoint's names, followed as its loader does.

A door: it imports transformers. Its order of things is the loader's (transformers 5.23,
convert_and_load_state_dict_in_model and revert_weight_conversion).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from adaptertools.layouts._blocks import Untraceable
from adaptertools.layouts._planned import planned

Sources = list[tuple[str, str]]  # (tensor or parameter, the pattern that it matched)


class Conversions:
    """A model's parameters as planned tensors over a checkpoint's."""

    def __init__(
        self, model: Any, stored: Mapping[str, tuple[int, ...]], turned: Mapping[str, str]
    ) -> None:
        """Take a model on the meta device, and the shapes of the checkpoint's tensors.

        `turned` are names of weights that some of these tensors hold transposed.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self._model, self._stored, self._turned = model, stored, turned
        self._state = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        said = get_model_conversion_mapping(model)
        self._renamings = [each for each in said if isinstance(each, WeightRenaming)]
        self._converters = [each for each in said if isinstance(each, WeightConverter)]
        self._older = [_awake(deepcopy(each)) for each in self._renamings]
        self._of = {p: each for each in self._converters for p in each.source_patterns}
        self._plain: dict[str, str] = {}  # parameter -> the tensor that it is
        self._made: dict[str, Sources] = {}  # the first of the parameters made -> what from
        self._with: dict[str, str] = {}  # parameter -> the first of those that are made with it
        self._values: dict[str, Any] = {}
        self._back: dict[int, tuple[Any, dict[str, Sources]]] = {}
        self._taken: dict[tuple[int, str], dict[str, Any]] = {}
        self._sort({*stored} - {*turned.values()} | {*turned})

    def parameter(self, name: str) -> Any:
        """Give the planned tensor of a parameter; None where it is none or is not stored.

        Raises Untraceable, with the operations, where one of them is not understood.
        """
        if name not in self._values and name in self._plain:
            self._values[name] = self._held(self._plain[name])
        elif name not in self._values and name in self._with:
            self._convert(self._with[name])
        return self._values.get(name)

    def older(self, name: str) -> Any:
        """Give the planned tensor of a name that only another checkpoint has; None for no such.

        Raises Untraceable, with the operations, where one of them is not understood.
        """
        key, pattern = self._renamed(name, self._older)
        if key not in self._state:
            return None
        if pattern is None:
            return self.parameter(key)
        for renaming in self._older:
            name, _ = renaming.rename_source_key(name)
        return self._reverted(key, self._of[pattern]).get(self._unprefixed(name))

    def _sort(self, names: Iterable[str]) -> None:
        """Say of every tensor which parameter it is, or is made into, in the loader's order."""
        from transformers.core_model_loading import dot_natural_key

        for name in sorted(names, key=dot_natural_key):
            key, pattern = self._renamed(name, self._renamings)
            if key not in self._state and name in self._state:
                key, pattern = name, None
            if key not in self._state:
                continue
            if pattern is None:
                self._plain.setdefault(key, name)
                continue
            self._made.setdefault(key, []).append((name, pattern))
            first, *others = self._of[pattern].target_patterns
            for other in (first, *others):
                self._with.setdefault(key.replace(first, other, 1), key)
        starred = [k for k, of in self._made.items() if "*" in "".join(self._targets(of))]
        for key in starred:  # how many there are is for the operation to say
            self._convert(key)

    def _held(self, name: str) -> Any:
        if (tensor := self._turned.get(name)) is not None:
            return planned(tensor, self._stored[tensor]).transpose(-1, -2)
        return planned(name, self._stored[name])

    def _targets(self, sources: Sources) -> list[str]:
        targets: list[str] = self._of[sources[0][1]].target_patterns
        return targets

    def _renamed(self, name: str, renamings: list[Any]) -> tuple[str, str | None]:
        from transformers.core_model_loading import rename_source_key

        prefix = self._model.base_model_prefix
        named: tuple[str, str | None] = rename_source_key(
            name, renamings, self._converters, prefix, self._state
        )
        return named

    def _convert(self, key: str) -> None:
        """Run the operations that make a parameter, and those that are made with it."""
        sources = self._made[key]
        values = [(name, pattern, self._held(name)) for name, pattern in sources]
        made = self._run(deepcopy(self._of[sources[0][1]]), key, values)
        for name, value in made.items():
            if self._state.get(name, tuple(value.shape)) != tuple(value.shape):
                raise Untraceable(f"operations whose result is not of {name}'s shape")
        self._values |= made

    def _reverted(self, key: str, converter: Any) -> dict[str, Any]:
        """Make the tensors that a conversion takes out of the parameters that it makes."""
        number = id(converter)
        if number not in self._back:
            self._back[number] = self._reversal(converter)
        back, of = self._back[number]
        first, _ = back.rename_source_key(key)
        if (number, first) not in self._taken:
            values = [(name, p, self.parameter(name)) for name, p in of.get(first, [])]
            whole = values and all(value is not None for _, _, value in values)
            made = self._run(deepcopy(back), first, values) if whole else {}
            self._taken[number, first] = {self._unprefixed(n): v for n, v in made.items()}
        return self._taken[number, first]

    def _reversal(self, converter: Any) -> tuple[Any, dict[str, Sources]]:
        """Give the reverse of a conversion, and which parameters it takes together."""
        from transformers.core_model_loading import dot_natural_key

        try:
            back = converter.reverse_transform()
        except NotImplementedError:
            raise Untraceable(_names(converter)) from None
        of: dict[str, Sources] = {}
        for name in sorted(self._state, key=dot_natural_key):
            made, pattern = back.rename_source_key(name)
            if pattern is not None:
                of.setdefault(made, []).append((name, pattern))
        return back, of

    def _run(self, converter: Any, key: str, values: list[tuple[str, str, Any]]) -> dict[str, Any]:
        for name, pattern, value in values:
            converter.add_tensor(key, name, pattern, value)
        try:
            made = converter.convert(key, model=self._model, config=self._model.config)
        except Exception as error:  # Untraceable, or whatever an operation finds wrong
            raise Untraceable(_names(converter)) from error
        made = made[0] if isinstance(made, tuple) else made  # 5.0 gives errors too
        return {n: v[0] if isinstance(v, list) else v for n, v in made.items()}

    def _unprefixed(self, name: str) -> str:
        prefix = self._model.base_model_prefix
        return name.removeprefix(f"{prefix}.") if prefix else name


def _names(converter: Any) -> str:
    return " and ".join(type(operation).__name__ for operation in converter.operations)


def _awake(renaming: Any) -> Any:
    """Let renamings that wait for a name that only older checkpoints have take this one for it."""
    if hasattr(renaming, "_active"):
        renaming._active = True
    return renaming
