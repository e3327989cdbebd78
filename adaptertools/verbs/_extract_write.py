"""Write the changes of a fine-tuned model, weight after weight, as an adapter stores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from adaptertools import tensorfile
from adaptertools.errors import Unsupported, shown
from adaptertools.formats._peft_write import Line, Writer, key, whole_key
from adaptertools.tensorfile import FLOATS, dtype_of
from adaptertools.verbs._extract_fit import Fit, Twin
from adaptertools.verbs._extract_matrix import Said, change, check_finite, factors
from adaptertools.verbs._stack_ask import Ask


@dataclass(slots=True)
class Made:
    """What has been written so far, and what was left out."""

    matrices: list[Said] = field(default_factory=list)
    wholes: list[str] = field(default_factory=list)  # names of tensors in the model
    biases: list[str] = field(default_factory=list)
    placeholder: str = ""  # a module whose factors are zero, where PEFT needs one
    owners: set[str] = field(default_factory=set)  # modules that are saved whole
    turned: bool = False  # a weight that is stored (in, out) is among them
    same: int = 0  # tensors without any change
    rounding: int = 0  # weights whose change is no more than rounding


def write(
    fitted: Fit, path: Path, ask: Ask, code: str, progress: Callable[[int], object]
) -> Made:  # fmt: skip
    """Write every change; odd parameters first, because their modules are then saved whole."""
    made = Made()
    made.owners = owners = _owners(fitted)
    inside = tuple(f"{owner}." for owner in owners)
    matrices = [t for t in fitted.twins if t.role.kind in ("linear", "conv1d")
                and t.base is not None and not t.role.name.startswith(inside)]  # fmt: skip
    rest = [t for t in fitted.twins if not any(t is each for each in matrices)]
    with Writer(path, _most(fitted, code)) as writer:
        for twin in matrices:
            _matrix(writer, twin, ask, code, made)
            progress(twin.tuned.nbytes)
        if not made.matrices and any(map(_changed, rest)):
            _nothing(writer, matrices, code, made)
        _wholes(writer, rest, owners, made)
        progress(sum(twin.tuned.nbytes for twin in rest))
    return made


def _nothing(writer: Writer, matrices: list[Twin], code: str, made: Made) -> None:
    """Give one weight factors that are zero: PEFT loads no LoRA that adapts nothing."""
    import numpy as np

    if not matrices:
        raise Unsupported(
            "No linear weight is outside the modules that must be saved whole, and PEFT loads no "
            "LoRA without one. Serve the fine-tuned model as it is."
        )
    spec, made.placeholder = matrices[0].tuned, matrices[0].role.module
    rows, columns = spec.rows, spec.columns
    if matrices[0].role.kind == "conv1d":
        rows, columns, made.turned = columns, rows, True
    for role, shape in (("lora_A", (1, columns)), ("lora_B", (rows, 1))):
        writer.add(key(made.placeholder, role), code, np.zeros(shape, dtype_of(code)))


def _owners(fitted: Fit) -> set[str]:
    """Name the modules that must be saved whole: what changed in them has no name of its own."""
    found = set()
    for twin in fitted.twins:
        role = twin.role
        if role.kind in ("unsure", "expert") and _changed(twin):
            raise _unwritable(twin)
        if role.kind == "whole" and not role.name.endswith(".bias") and _changed(twin):
            if twin.tuned.dtype not in FLOATS:
                raise Unsupported(
                    f"{shown(role.name)} is stored as {twin.tuned.dtype} and differs from the "
                    "base's. Only floats are trained; give the base of this model."
                )
            if not role.module:
                raise Unsupported(
                    f"{shown(role.name)} is a parameter of the model itself, which no PEFT adapter "
                    "can bring. Serve the fine-tuned model as it is."
                )
            found.add(role.module)
    return _with_namesakes(fitted, found)


def _with_namesakes(fitted: Fit, found: set[str]) -> set[str]:
    """Add what PEFT takes these names for: every module whose name ends so, even within a word.

    All that it takes must be in the file (peft/utils/other.py, `_set_trainable`). A module inside
    another one is saved with that.
    """
    modules = set()
    for twin in fitted.twins:
        at = twin.role.module
        while at and at not in modules:
            modules.add(at)
            at = at.rpartition(".")[0]
    ends = tuple(found)
    every = {module for module in modules if module.endswith(ends)} if ends else set()
    return {m for m in every if not any(m.startswith(f"{other}.") for other in every)}


def _unwritable(twin: Twin) -> Unsupported:
    if twin.role.kind == "expert":
        return Unsupported(
            f"{shown(twin.role.name)} is of an expert, and changes of experts are not extracted "
            "yet: models store them fused or apart, and adapters name them otherwise. Serve the "
            "fine-tuned model as it is."
        )
    return Unsupported(
        f"{shown(twin.role.name)} may be stored (out, in) or (in, out), and the model type does "
        "not say which. Add the model's model_type to config.json."
    )


def _changed(twin: Twin) -> bool:
    """Tell whether a tensor holds other values than the base's."""
    import numpy as np

    old, new = twin.base, twin.tuned
    if old is None:
        return True
    if old.dtype == new.dtype:
        return not tensorfile.same(old, new)
    return not np.array_equal(tensorfile.read(old), tensorfile.read(new))


def _matrix(writer: Writer, twin: Twin, ask: Ask, code: str, made: Made) -> None:
    assert twin.base is not None
    if twin.base.dtype == twin.tuned.dtype and tensorfile.same(twin.base, twin.tuned):
        made.same += 1
        return
    turned = twin.role.kind == "conv1d"
    held = change(twin.base, twin.tuned, turned)
    if not held.values.any():
        made.same += 1
        return
    target = twin.role.module
    found = factors(target, held, ask, code)
    if found is None:
        made.rounding += 1
        return
    up, down, figures = found
    writer.add(key(target, "lora_A"), code, down)
    writer.add(key(target, "lora_B"), code, up)
    made.matrices.append(figures)
    made.turned |= turned


def _wholes(writer: Writer, rest: list[Twin], owners: set[str], made: Made) -> None:
    """Write saved modules with everything in them, and biases of modules that are not."""
    adapted = {made.placeholder, *(each.target for each in made.matrices)}
    inside = tuple(f"{owner}." for owner in owners)
    for twin in rest:
        role, bias = twin.role, False
        if not role.name.startswith(inside):
            if not _changed(twin):
                made.same += 1
                continue
            bias = True
        wrapper = "base_layer" if bias and role.module in adapted else ""
        check_finite(twin.tuned)
        values = tensorfile.read(twin.tuned)
        writer.add(whole_key(role.name, wrapper), twin.tuned.dtype, values)
        (made.biases if bias else made.wholes).append(role.name)


def _most(fitted: Fit, code: str) -> Iterator[Line]:
    """Name everything that may be written, so that the header has room."""
    for twin in fitted.twins:
        name, (rows, columns) = twin.role.name, (twin.tuned.rows, twin.tuned.columns)
        side = max(rows, columns)
        if twin.role.kind in ("linear", "conv1d"):
            yield key(twin.role.module, "lora_A"), code, (side, side)
            yield key(twin.role.module, "lora_B"), code, (side, side)
        yield whole_key(name, "base_layer"), twin.tuned.dtype, twin.tuned.shape
