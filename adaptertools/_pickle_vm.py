"""A reader of pickle opcodes that knows tensors and nothing else: no import, no call, no object.

Python's own opcode lister takes a pickle apart; an allow list of opcodes and globals decides what
becomes of it. A deny list would have to know every way to do harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adaptertools._pickle_zip import Refused

MAX_AXES = 64  # torch's own limit

ORDERED, TENSOR, PARAMETER = (
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
)  # fmt: skip
STORAGES: Mapping[str, str] = {
    "torch BFloat16Storage": "BF16", "torch BoolStorage": "BOOL", "torch ByteStorage": "U8",
    "torch CharStorage": "I8", "torch ComplexFloatStorage": "C64", "torch DoubleStorage": "F64",
    "torch FloatStorage": "F32", "torch HalfStorage": "F16", "torch IntStorage": "I32",
    "torch LongStorage": "I64", "torch ShortStorage": "I16",
}  # fmt: skip
ALLOWED = frozenset({ORDERED, TENSOR, PARAMETER, *STORAGES})


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle refers to; never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Elements of one dtype in an entry of the zip."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Machine:
    """A stack and a memo, as pickle has them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def step(self, name: str, arg: Any) -> None:
        """Take one opcode; raise Refused for what saved tensors do not need."""
        if act := _ACTS.get(name):
            act(self, arg)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name] if arg is None else arg)
        else:
            raise Refused(f"it uses the opcode {name}, which no saved tensors need")

    def result(self) -> dict[Any, Any]:
        """Give what was made, once all opcodes were taken."""
        if self.marks or len(self.stack) != 1 or not isinstance(self.stack[0], dict):
            raise Refused("it does not hold one map of tensors")
        return self.stack[0]

    def pop(self) -> Any:
        """Take the top of the stack, not from below a mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("it takes more from its stack than it put there")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark."""
        if not self.marks:
            raise Refused("it looks for a mark that is not there")
        at = self.marks.pop()
        found = self.stack[at:]
        del self.stack[at:]
        return found


def _proto(it: Machine, version: int) -> None:
    if version != 2:
        raise Refused(f"it is written in pickle protocol {version}; torch saves in protocol 2")


def _global(it: Machine, name: str) -> None:
    if name not in ALLOWED:
        raise Refused(f"it names {name.replace(' ', '.', 1)}, which no saved tensors need")
    it.stack.append(Global(name))


def _integer(it: Machine, value: int) -> None:
    if abs(value) >= 2**63:
        raise Refused("it holds a number of more than 64 bits")
    it.stack.append(value)


def _put(it: Machine, index: int) -> None:
    if index > len(it.memo) or not it.stack:
        raise Refused(f"it remembers a value under {index}, out of turn")
    it.memo[index] = it.stack[-1]


def _get(it: Machine, index: int) -> None:
    if index not in it.memo:
        raise Refused(f"it recalls a value under {index}, which it never remembered")
    it.stack.append(it.memo[index])


def _tuple(count: int) -> Callable[[Machine, Any], None]:
    def act(it: Machine, _: Any) -> None:
        it.stack.append(tuple([it.pop() for _ in range(count)][::-1]))

    return act


def _items(it: Machine, found: list[Any]) -> None:
    held = it.pop()
    if not isinstance(held, dict) or len(found) % 2:
        raise Refused("it puts an item into something that is no map")
    it.stack.append(held)
    for key, value in zip(found[::2], found[1::2], strict=True):
        if type(key) not in (str, int):
            raise Refused("it holds a map whose keys are neither names nor numbers")
        if key in held:
            raise Refused("it holds two values of one name")
        held[key] = value


def _append(it: Machine, found: list[Any]) -> None:
    held = it.pop()
    if not isinstance(held, list):
        raise Refused("it appends to something that is no list")
    held += found
    it.stack.append(held)


def _storage(it: Machine, _: Any) -> None:
    """The persistent id that torch gives a storage: its kind, key, device and length."""
    match it.pop():
        case ("storage", Global(name), str(key), str(), count) if _count(count):
            if name not in STORAGES:
                raise Refused("it refers to a storage of an unknown kind")
            made = Storage(STORAGES[name], key, count)
        case _:
            raise Refused("it refers to something outside that is no storage")
    if it.storages.setdefault(key, made) != made:
        raise Refused("it gives one storage two dtypes or lengths")
    it.stack.append(made)


def _reduce(it: Machine, _: Any) -> None:
    args, called = it.pop(), it.pop()
    if not isinstance(called, Global) or not isinstance(args, tuple) or len(args) > 7:
        raise Refused("it calls something that is no function")
    match (called.name, *args):
        case (str(name),) if name == ORDERED:
            it.stack.append({})
        case (str(name), Tensor() as tensor, bool(), dict()) if name == PARAMETER:
            it.stack.append(tensor)
        case (str(name), Storage(), int(), tuple(), tuple(), bool(), dict(), *more) if (
            name == TENSOR and more in ([], [None], [{}])
        ):
            it.stack.append(_tensor(*args[:4]))
        case _:
            name = called.name.replace(" ", ".", 1)
            raise Refused(f"it calls {name} with other arguments than torch does")


def _tensor(storage: Storage, offset: int, shape: Any, stride: Any) -> Tensor:
    if not len(shape) == len(stride) <= MAX_AXES:
        raise Refused("it holds a tensor of more axes than there are, or of other strides")
    if not all(_count(n) for n in (offset, *shape, *stride)):
        raise Refused("it holds a tensor whose shape or strides are no counts")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.count:
        raise Refused("it holds a tensor that reaches beyond its storage")
    return Tensor(storage, offset, shape, stride)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _build(it: Machine, _: Any) -> None:
    """A state dict carries versions of its modules, in an attribute that nobody needs."""
    state, held = it.pop(), it.pop()
    if not (isinstance(held, dict) and isinstance(state, dict) and state.keys() == {"_metadata"}):
        raise Refused("it sets the state of an object")
    it.stack.append(held)


_ACTS: Mapping[str, Callable[[Machine, Any], None]] = {
    "PROTO": _proto, "GLOBAL": _global, "BINPERSID": _storage, "REDUCE": _reduce, "BUILD": _build,
    "MARK": lambda it, _: it.marks.append(len(it.stack)), "STOP": lambda it, _: None,
    "BININT": _integer, "BININT1": _integer, "BININT2": _integer, "LONG1": _integer,
    "BINPUT": _put, "LONG_BINPUT": _put, "BINGET": _get, "LONG_BINGET": _get,
    "TUPLE1": _tuple(1), "TUPLE2": _tuple(2), "TUPLE3": _tuple(3),
    "TUPLE": lambda it, _: it.stack.append(tuple(it.since_mark())),
    "EMPTY_DICT": lambda it, _: it.stack.append({}),
    "EMPTY_LIST": lambda it, _: it.stack.append([]),
    "SETITEM": lambda it, _: _items(it, [it.pop(), it.pop()][::-1]),
    "SETITEMS": lambda it, _: _items(it, it.since_mark()),
    "APPEND": lambda it, _: _append(it, [it.pop()]),
    "APPENDS": lambda it, _: _append(it, it.since_mark()),
}  # fmt: skip
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False,
                                 "EMPTY_TUPLE": (), "BINFLOAT": 0.0, "BINUNICODE": ""}  # fmt: skip
