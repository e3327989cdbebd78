"""Files of torch.save are read as torch reads them, and nothing else is read at all.

torch writes the good files and says what is in them; the bad ones are put together by hand.
"""

import os
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adaptertools import picklefile, tensorfile
from adaptertools._pickle_vm import MAX_AXES
from adaptertools.errors import NotFound
from adaptertools.picklefile import Listing
from tests import handmade_pickle as p
from tests.hostile import CENTRAL, END, LOCAL, RUN, larger, patched

DATA = Path(os.environ.get("ADAPTERTOOLS_DATA", Path(__file__).parents[2] / "shared" / "data"))
shared = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
REAL = sorted(DATA.glob("adapters/*/*.bin"))
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.complex64: "C64",
}  # fmt: skip


def raw(tensor: torch.Tensor) -> bytes:
    """Give the bytes of a tensor, laid out in one piece."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)
    flat.copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()


def bytes_of(listing: Listing, name: str) -> bytes:
    """Give the bytes of a tensor as the listing says where they lie."""
    spec = listing.tensors[name]
    with Path(spec.file).open("rb") as file:
        if name not in listing.strided:
            file.seek(spec.start)
            return file.read(spec.nbytes)
        view = listing.strided[name]
        width = tensorfile.BITS[spec.dtype] // 8
        places = np.indices(spec.shape).reshape(len(spec.shape), -1).T @ np.array(view.strides)
        parts = []
        for place in places:
            file.seek(view.start + int(place) * width)
            parts.append(file.read(width))
        return b"".join(parts)


def assert_as_torch(path: Path) -> None:
    """Hold a listing against what torch loads."""
    listing, loaded = picklefile.read(path), torch.load(path, "cpu", weights_only=True)
    assert (listing.refused, listing.others) == ("", ())
    assert list(listing.tensors) == list(loaded)
    for name, tensor in loaded.items():
        spec = listing.tensors[name]
        assert (spec.dtype, spec.shape) == (DTYPES[tensor.dtype], tuple(tensor.shape))
        assert (name in listing.strided) == (not tensor.is_contiguous())
        assert bytes_of(listing, name) == raw(tensor)
        assert spec.nbytes == len(raw(tensor))
        assert (spec.start < 0) == (name in listing.strided), "nobody may read it as one piece"


@pytest.mark.parametrize("path", REAL or [None], ids=lambda f: f.parent.name if f else "none")
def test_real_adapters(path: Path | None) -> None:
    if path is None:
        pytest.skip(f"real adapters are not there: {DATA} (set ADAPTERTOOLS_DATA)")
    assert_as_torch(path)


def saved(folder: Path, value: object, **how: object) -> Path:
    torch.save(value, folder / "a.bin", **how)
    return folder / "a.bin"


def test_every_dtype(tmp_path: Path) -> None:
    held = {str(dtype): torch.ones(2, 3).to(dtype) for dtype in DTYPES}
    assert_as_torch(saved(tmp_path, held))


def test_views(tmp_path: Path) -> None:
    one = torch.arange(60.0).reshape(3, 4, 5)
    assert_as_torch(
        saved(tmp_path, {
            "whole": one, "again": one, "transposed": one.transpose(0, 2), "row": one[1],
            "column": one[:, 1], "steps": one[::2, :, ::2], "spread": one[0, 0, :1].expand(4, 1),
            "wide": one[:1, :1, :1].expand(2, 3, 4), "scalar": one[0, 0, 3], "empty": one[:0],
            "thin": one[:, :1, :1].transpose(0, 1), "late": one[2, 3],
        })
    )  # fmt: skip


def test_a_state_dict_carries_versions(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    assert_as_torch(saved(tmp_path, module.state_dict()))
    assert_as_torch(saved(tmp_path, OrderedDict(module.named_parameters())))


def test_globals_are_told(tmp_path: Path) -> None:
    listing = picklefile.read(saved(tmp_path, {"a": torch.ones(1)}))
    assert sorted(listing.globals) == [
        "collections.OrderedDict", "torch.FloatStorage", "torch._utils._rebuild_tensor_v2",
    ]  # fmt: skip
    assert picklefile.foreign(listing.globals) == ()


@shared
@given(
    st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 3), max_size=4), st.randoms(),
    st.lists(st.integers(1, 3), min_size=4, max_size=4),
)  # fmt: skip
def test_any_view(tmp_path: Path, dtype, shape, random, steps) -> None:
    whole = torch.arange(int(np.prod(shape))).to(dtype).reshape(shape)
    axes = random.sample(range(len(shape)), len(shape))
    view = whole.permute(axes)[
        tuple(slice(random.randint(0, 1), None, s) for s in steps)[: len(axes)]
    ]
    assert_as_torch(saved(tmp_path, {"whole": whole, "view": view}))


def test_a_zip_of_64_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 3)
    path = p.write(tmp_path, p.zipped())
    assert path.read_bytes().count(b"PK\6\6") == 1
    assert_as_torch(path)


def test_beyond_four_gigabytes(tmp_path: Path) -> None:
    """The file is full of holes: it says that it is large, and takes no room."""
    count = 2**30 + 8
    path, size = tmp_path / "a.bin", 4 * count
    held = ("far", p.tensor(p.storage("1"))), ("big", p.tensor(p.storage("0", count), 2**30))
    write_large(path, p.mapped(*held), size)
    assert_as_torch_mapped(path)
    if path.stat().st_blocks * 512 > 10**8:
        pytest.skip("this disk knows no holes")


def write_large(path: Path, pickled: bytes, size: int) -> None:
    """Write entries data/0, of zeros, then data/1 and the pickle."""
    entries = [("version", b"3\n", 2), ("data/0", b"", size), ("data/1", p.DATA, 16),
               ("data.pkl", pickled, len(pickled))]  # fmt: skip
    listed = b""
    with path.open("wb") as file:
        for name, data, length in entries:
            full, at = f"archive/{name}".encode(), file.tell()
            wide = struct.pack("<2H3Q", 1, 24, length, length, at)
            fixed = struct.pack("<5H3L", 45, 0, 0, 0, 33, 0, 2**32 - 1, 2**32 - 1)
            lengths = struct.pack("<2H", len(full), 28)
            listed += b"PK\1\2" + struct.pack("<H", 45) + fixed + lengths
            listed += struct.pack("<3H2L", 0, 0, 0, 0, 2**32 - 1) + full + wide
            file.write(b"PK\3\4" + fixed + struct.pack("<2H", len(full), 20) + full)
            file.write(struct.pack("<2H2Q", 1, 16, length, length) + data)
            file.seek(length - len(data), os.SEEK_CUR)
        at = file.tell()
        numbers = struct.pack("<4Q", len(entries), len(entries), len(listed), at)
        end = b"PK\6\6" + struct.pack("<Q2H2L", 44, 45, 45, 0, 0) + numbers
        file.write(listed + end + b"PK\6\7" + struct.pack("<LQL", 0, at + len(listed), 1))
        file.write(END + struct.pack("<4H2LH", 0, 0, 4, 4, len(listed), 2**32 - 1, 0))


def assert_as_torch_mapped(path: Path) -> None:
    listing = picklefile.read(path)
    assert listing.refused == ""
    loaded = torch.load(path, "cpu", weights_only=True, mmap=True)
    for name, tensor in loaded.items():
        np.testing.assert_array_equal(tensorfile.read(listing.tensors[name]), tensor.numpy())


ELSEWHERE = [("archive/b/data.pkl", p.ONE)]
FLOATS = p.tensor()
HALF = p.tensor(p.storage("0", 8, b"torch\nHalfStorage"), 0, [8])
CONJUGATE = p.tensor(more=b"}" + p.text("conj") + b"\x88s")
NEGATIVE = p.REBUILD + p.tuple_(
    p.storage(), p.number(0), p.tuple_(b"J\xff\xff\xff\xff"), p.tuple_(p.number(1)), b"\x89",
    p.ORDERED + b")R",
) + b"R"  # fmt: skip
WHOLE = p.zipped()

# What stands in the pickle, and a word of the reason.
PICKLED: dict[str, tuple[bytes, str]] = {
    "a command": (RUN, "posix.system"),
    "print": (b"cbuiltins\nprint\n" + p.tuple_(p.text("boo")) + b"R", "builtins.print"),
    "eval": (b"cbuiltins\neval\n" + p.tuple_(p.text("1")) + b"R", "builtins.eval"),
    "a dotted name": (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n", "__globals__"),
    "a name with a blank": (b"ctorch._utils _rebuild_tensor_v2\n\n", "names torch"),
    "INST": (b"(iposix\nsystem\n", "INST"),
    "OBJ": (b"(cposix\nsystem\no", "posix.system"),
    "NEWOBJ": (p.ORDERED + b")\x81", "NEWOBJ"),
    "NEWOBJ_EX": (p.ORDERED + b")}\x92", "NEWOBJ_EX"),
    "EXT1": (b"\x82\x01", "EXT1"),
    "EXT2": (b"\x83\x01\x00", "EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "EXT4"),
    "PERSID": (b"Pa\n", "PERSID"),
    "DUP": (b"}2", "DUP"),
    "POP": (b"}}0", "POP"),
    "bytes": (b"C\x01a", "SHORT_BINBYTES"),
    "a set": (b"\x8f", "EMPTY_SET"),
    "a later protocol": (b"\x80\x04}", "protocol 4"),
    "BUILD": (FLOATS + b"}" + p.text("a") + b"Nsb", "state of an object"),
    "BUILD with more": (b"}}" + p.text("a") + b"Nsb", "state of an object"),
    "a call of a text": (p.text("a") + b")R", "no function"),
    "a call of a storage": (b"ctorch\nFloatStorage\n)R", "torch.FloatStorage with other arguments"),
    "a call with a list": (p.ORDERED + b"]R", "no function"),
    "a map made of pairs": (p.ORDERED + p.tuple_(b"]") + b"R", "OrderedDict with other arguments"),
    "many arguments": (p.REBUILD + p.tuple_(*[b"N"] * 8) + b"R", "no function"),
    "a parameter of nothing": (p.PARAMETER + p.tuple_(b"N", b"\x88", b"}") + b"R", "_rebuild_par"),
    "a conjugate": (CONJUGATE, "other arguments"),
    "beyond the storage": (p.tensor(offset=1), "beyond its storage"),
    "beyond by strides": (p.tensor(shape=[2, 2], stride=[3, 1]), "beyond its storage"),
    "a negative length": (NEGATIVE, "no counts"),
    "strides of other length": (p.tensor(shape=[2, 2], stride=[1]), "axes"),
    "too many axes": (p.tensor(shape=[1] * (MAX_AXES + 1), stride=[1] * (MAX_AXES + 1)), "axes"),
    "endless": (
        b"}" + p.text("a") + p.tensor(shape=[2**40, 2**40], stride=[0, 0]) + b"s", "be counted"),
    "a storage of an odd kind": (p.storage(kind=b"torch\nQInt8Storage"), "QInt8Storage"),
    "a storage of no kind": (p.tuple_(p.text("storage"), b"N") + b"Q", "no storage"),
    "a storage of a function": (p.storage(kind=p.REBUILD[1:-1]), "unknown kind"),
    "something outside": (p.text("a") + b"Q", "no storage"),
    "two dtypes": (FLOATS + HALF, "two dtypes"),
    "a storage that is not there": (p.storage("7"), "storage 7 that is not there"),
    "a storage up a folder": (p.storage("../version", 0), "not there"),
    "a storage of another size": (p.storage("0", 3), "another size"),
    "a name twice": (b"}" + (p.text("a") + b"Ns") * 2, "two values of one name"),
    "a tuple for a name": (b"})Ns", "neither names nor numbers"),
    "half a letter": (b"}" + p.text(b"\xed\xa0\x80") + FLOATS + b"s", "no text"),
    "an item without a map": (b"]NNs", "no map"),
    "an odd item": (b"}(Nu", "no map"),
    "an append to a map": (b"}Na", "no list"),
    "a list": (b"]", "one map of tensors"),
    "two values": (b"}}", "one map of tensors"),
    "nothing": (b"", "one map of tensors"),
    "a mark left": (b"(}", "one map of tensors"),
    "no mark": (b"t", "mark that is not there"),
    "below a mark": (b"}(\x85", "more from its stack"),
    "an empty stack": (b"\x86", "more from its stack"),
    "remembering nothing": (b"q\0", "out of turn"),
    "a memo bomb": (b"]r\0\0\0\x04", "out of turn"),
    "recalling nothing": (b"h\0", "never remembered"),
    "a long number": (b"\x8a\x09" + b"\x7f" * 9, "64 bits"),
    "a longer number": (b"\x8b\0\0\1\0" + b"\x7f" * 65536, "LONG4"),
    "a giant text": (b"X\xff\xff\xff\x7f", "2147483647 bytes"),
    "a text cut short": (b"X\x10\0\0\0a", "no whole pickle"),
    "an unknown opcode": (b"\xff", "no whole pickle"),
    "a name without end": (b"cos", "no whole pickle"),
    "deep": (b")" + b"\x85" * 100_000, "one map of tensors"),
}  # fmt: skip
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"hello\n", "no file of torch.save"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "a bare pickle": (p.ONE, "bare pickle"),
    "a pickle of protocol 0": (b"(dp0\n.", "no file of torch.save"),
    "before 1.6": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "before 1.6"),
    "cut short": (WHOLE[:-30], "cut short"),
    "cut in its end": (WHOLE[:-1], "cut short"),
    "more at its end": (WHOLE + b"\0", "cut short"),
    "a comment": (patched(WHOLE, 20, 1, 0, END, "<H") + b"a", "cut short"),
    "more at its start": (LOCAL + WHOLE, "does not describe this file"),
    "two files": (WHOLE + WHOLE, "does not describe this file"),
    "compressed": (p.zipped(method=zipfile.ZIP_DEFLATED), "compressed"),
    "encrypted": (patched(patched(WHOLE, 8, 1, 0, CENTRAL, "<H"), 6, 1, 0, LOCAL, "<H"), "encrypt"),
    "overlapping": (larger(WHOLE, 20), "overlap"),
    "a hidden gap": (larger(WHOLE, -1), "no entry owns"),
    "larger than the file": (patched(WHOLE, 24, 10**6, 1, CENTRAL), "two sizes"),
    "marked as a folder": (patched(WHOLE, 38, 0x10, 1, CENTRAL), "folder"),
    "another size": (patched(WHOLE, 22, 17, 1, LOCAL), "local header"),
    "another checksum": (patched(WHOLE, 14, 17, 1, LOCAL), "local header"),
    "another method": (patched(WHOLE, 8, 8, 1, LOCAL, "<H"), "local header"),
    "another name": (WHOLE.replace(b"archive/data/0", b"archive/data/9", 1), "local header"),
    "another place": (patched(WHOLE, 42, 10**6, 2, CENTRAL), "no entry owns"),
    "fewer entries": (patched(patched(WHOLE, 8, 2, 0, END, "<H"), 10, 2, 0, END, "<H"), "fewer"),
    "more entries": (patched(patched(WHOLE, 8, 4, 0, END, "<H"), 10, 4, 0, END, "<H"), "cut short"),
    "two counts": (patched(WHOLE, 8, 2, 0, END, "<H"), "does not describe"),
    "many entries": (
        patched(patched(WHOLE, 8, 65535, 0, END, "<H"), 10, 65535, 0, END, "<H"), "cut short"),
    "one name twice": (
        p.zipped(more=[("archive/data/1", b"")]).replace(b"data/1", b"data/0"), "one name"),
    "one name in two cases": (p.zipped(more=[("ARCHIVE/data/0", b"")]), "one name"),
    "no pickle": (p.zipped(None), "0 pickles"),
    "two pickles": (p.zipped(more=ELSEWHERE), "2 pickles"),
    "TorchScript": (p.zipped(more=[("archive/constants.pkl", p.ONE)]), "2 pickles"),
    "no folder": (p.zipped(place="archive").replace(b"archive/data.pkl", b"archive_data.pkl"), "1"),
    "a deep folder": (p.zipped(place="a/b"), "1 pickles"),
    "two folders": (p.zipped(more=[("other/data/1", b"")]), "other/data/1"),
    "code": (p.zipped(more=[("archive/code/a.py", b"")]), "archive/code/a.py"),
    "another byte order": (p.zipped(more=[("archive/byteorder", b"big")]), "byte order"),
    "a name in Latin-1": (WHOLE.replace(b"archive", b"archiv\xe9"), "not UTF-8"),
    "more after the pickle": (p.zipped(p.ONE + p.ONE), "after the end"),
    "no version": (WHOLE.replace(b"archive/version", b"archive/.ersion"), "version"),
    "no end": (p.zipped(p.ONE[:-1]), "no whole pickle"),
}  # fmt: skip
FILES |= {name: (p.zipped(p.PROTO + code + p.STOP), why) for name, (code, why) in PICKLED.items()}


@pytest.mark.parametrize("name", FILES)
def test_refused(name: str, tmp_path: Path) -> None:
    data, why = FILES[name]
    listing = picklefile.read(p.write(tmp_path, data))
    assert why in listing.refused
    assert listing.refused.startswith("it ")
    assert listing.refused.isprintable()
    assert listing.tensors == {}


def test_what_is_put_together_by_hand_is_what_torch_reads(tmp_path: Path) -> None:
    assert_as_torch(p.write(tmp_path, WHOLE))


def test_no_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(NotFound, match=path.name):
            picklefile.read(path)


def test_values_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    held = {"a": torch.ones(2), "epoch": 3, "name": "x", 7: torch.ones(1), "nested": {"b": [1.5]}}
    listing = picklefile.read(saved(tmp_path, held))
    assert (listing.refused, list(listing.tensors)) == ("", ["a"])
    assert listing.others == ("epoch", "name", "7", "nested")


def test_globals_of_what_is_refused(tmp_path: Path) -> None:
    def named(data: bytes) -> tuple[str, ...]:
        return picklefile.foreign(picklefile.read(p.write(tmp_path, data)).globals)

    later = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93h\x00\x8c\x05popen\x94\x93."
    assert named(p.zipped(p.mapped(("a", RUN), ("b", b"csubprocess\nrun\n")))) == (
        "posix.system", "subprocess.run",
    )  # fmt: skip
    assert named(p.PROTO + RUN + p.STOP) == ("posix.system",)
    assert named(later) == ("os.system", "os.popen")
    assert named(p.zipped(later)) == ("os.system", "os.popen")
    assert named(p.PROTO + b"N." + p.PROTO + RUN + p.STOP) == ("posix.system",)
    assert named(b"cposix\nsystem\n.") == ("posix.system",)
    assert named(b"cats and dogs\nare no pickle\n") == ()


def test_files_of_old_torch_name_their_globals(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(1)}, _use_new_zipfile_serialization=False)
    listing = picklefile.read(path)
    assert "before 1.6" in listing.refused
    assert "torch.FloatStorage" in listing.globals


VALID = p.zipped(p.mapped(("a", p.tensor()), ("b", p.tensor(shape=[2, 2], stride=[1, 2]))))


@shared
@example([(525, 16)])  # an entry marked as a folder
@example([(378, 0x80)])  # the version
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=3))
def test_flipped_bytes(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    """Whatever is read of a damaged file is what torch reads; nothing else is raised."""
    data = bytearray(VALID)
    for at, byte in flips:
        data[at] = byte
    listing = picklefile.read(p.write(tmp_path, bytes(data)))
    if not listing.refused:
        try:
            loaded = torch.load(listing.file, "cpu", weights_only=True)
        except (RuntimeError, UnicodeDecodeError) as error:
            # torch alone looks at its version number, and quotes whatever it found there.
            if isinstance(error, UnicodeDecodeError) or "version" in str(error):
                return
            raise
        named = [name for name, value in loaded.items() if isinstance(value, torch.Tensor)]
        assert list(listing.tensors) == named
        for name in named:
            assert bytes_of(listing, name) == raw(loaded[name])
