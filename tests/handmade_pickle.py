"""Files of torch.save, put together by hand: honest ones, and ones that torch would never write."""

import struct
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

PLACE = "archive"
PROTO, STOP, MARK, REDUCE, PERSID = b"\x80\x02", b".", b"(", b"R", b"Q"
ORDERED = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"


def text(value: str | bytes) -> bytes:
    """Push a text."""
    raw = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """Push a number, however large."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_(*parts: bytes) -> bytes:
    """Push a tuple."""
    return MARK + b"".join(parts) + b"t"


def storage(key: str = "0", count: int = 4, kind: bytes = b"torch\nFloatStorage") -> bytes:
    """Push a storage."""
    said = (text("storage"), b"c" + kind + b"\n", text(key), text("cpu"), number(count))
    return tuple_(*said) + PERSID


def tensor(
    held: bytes | None = None, offset: int = 0, shape: Iterable[int] = (4,),
    stride: Iterable[int] = (1,), more: bytes = b"",
) -> bytes:  # fmt: skip
    """Push a tensor: four floats, unless told otherwise."""
    sizes, steps = (tuple_(*map(number, axes)) for axes in (shape, stride))
    hooks = ORDERED + b")R"
    args = (held or storage(), number(offset), sizes, steps, b"\x89", hooks, more)
    return REBUILD + tuple_(*args) + REDUCE


def mapped(*items: tuple[str, bytes]) -> bytes:
    """Make a whole pickle of a map."""
    return PROTO + b"}" + MARK + b"".join(text(n) + v for n, v in items) + b"u" + STOP


ONE = mapped(("alpha", tensor()))
DATA = struct.pack("<4f", 1, 2, 3, 4)


def zipped(
    pickled: bytes | None = ONE, data: bytes | None = DATA, more: Iterable[tuple[str, bytes]] = (),
    place: str = PLACE, method: int = zipfile.ZIP_STORED,
) -> bytes:  # fmt: skip
    """Zip a pickle, its one storage and further entries, as torch.save would."""
    out = BytesIO()
    own = [(f"{place}/data.pkl", pickled), (f"{place}/data/0", data), (f"{place}/version", b"3\n")]
    with zipfile.ZipFile(out, "w") as made:
        for name, raw in (*own, *more):
            if raw is not None:
                info = zipfile.ZipInfo(name)  # of 1980, so that the file is the same every time
                info.compress_type = method
                made.writestr(info, raw)
    return out.getvalue()


def write(folder: Path, raw: bytes, name: str = "adapter_model.bin") -> Path:
    """Write a file."""
    path = folder / name
    path.write_bytes(raw)
    return path
