"""Folders of adapters that somebody wrote to harm who reads them: name -> how to make it.

Each begins as the good tiny adapter. A file that ran would leave `canary` in the working folder.
"""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import handmade_pickle as p
from tests.checks import tiny
from tests.handmade import entry, one, whole

Make = Callable[[Path], object]

COMMAND = "touch canary"
RUN = b"cposix\nsystem\n" + p.tuple_(p.text(COMMAND)) + b"R"
MEMO_BOMB = b"\x80\x02]r\0\0\0\x04."  # nine bytes: a memo of 2**26 places


def pickled(raw: bytes, name: str = "adapter_model.bin") -> Make:
    """Put a pickle in place of the weights."""

    def make(folder: Path) -> None:
        (folder / tiny.WEIGHTS_FILE).unlink()
        (folder / name).write_bytes(raw)

    return make


def opcodes(*parts: bytes) -> Make:
    """The same, with these opcodes in a file that torch.save could have written."""
    return pickled(p.zipped(b"".join((p.PROTO, *parts, p.STOP))))


def weights(raw: bytes) -> Make:
    """Put bytes in place of the safetensors file."""
    return lambda folder: (folder / tiny.WEIGHTS_FILE).write_bytes(raw)


def config(raw: bytes | str) -> Make:
    """Put a text in place of the config."""
    data = raw if isinstance(raw, bytes) else raw.encode()
    return lambda folder: (folder / tiny.CONFIG_FILE).write_bytes(data)


def changed(**changes: Any) -> Make:
    """Change keys of the config."""
    return lambda folder: tiny.set_config(folder, **changes)


def beside(name: str, raw: bytes | str = "x") -> Make:
    """Put a file beside the adapter."""
    data = raw if isinstance(raw, bytes) else raw.encode()
    return lambda folder: (folder / name).write_bytes(data)


def link(name: str, target: str) -> Make:
    """Put a link beside the adapter."""
    return lambda folder: (folder / name).symlink_to(target)


def renamed(change: Callable[[str], str]) -> Make:
    """Rename the first tensor, through numpy's own writer of headers."""

    def make(folder: Path) -> None:
        held = tiny.tensors()
        name = next(iter(held))
        tiny.set_tensors(folder, lambda _: {change(name): held.pop(name), **held})

    return make


def many_modules(count: int, **changes: Any) -> Make:
    """Adapt many modules, and change the config."""

    def make(folder: Path) -> None:
        name = "base_model.model.model.layers.{}.mlp.up_proj.lora_{}.weight"
        each = tiny.noise(2, 2)
        held = {name.format(i, side): each for i in range(count) for side in "AB"}
        tiny.set_tensors(folder, lambda _: held)
        tiny.set_config(folder, **changes)

    return make


def twin(*names: str) -> Make:
    """Put several files beside the adapter."""
    return lambda folder: [beside(name)(folder) for name in names]


def patched(raw: bytes, at: int, value: int, nth: int, sign: bytes, size: str = "<L") -> bytes:
    """Change a number in the nth header of a zip that has this signature."""
    place = -1
    for _ in range(nth + 1):
        place = raw.index(sign, place + 1)
    changed = bytearray(raw)
    struct.pack_into(size, changed, place + at, value)
    return bytes(changed)


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def larger(raw: bytes, by: int) -> bytes:
    """Let the storage reach into what comes after it, both headers saying so."""
    size = len(p.DATA) + by
    for sign, places in ((LOCAL, (18, 22)), (CENTRAL, (20, 24))):
        for at in places:
            raw = patched(raw, at, size, 1, sign)
    return raw


PICKLES: dict[str, tuple[Make, str]] = {
    "a command": (opcodes(RUN), "SEC002"),
    "a command, bare": (pickled(p.PROTO + RUN + p.STOP), "SEC002"),
    "a command, first of two": (pickled(p.PROTO + RUN + p.STOP + p.ONE), "SEC002"),
    "a command as safetensors": (pickled(p.PROTO + RUN + p.STOP, tiny.WEIGHTS_FILE), "SEC001"),
    "a zip as safetensors": (pickled(p.zipped(), tiny.WEIGHTS_FILE), "SEC001"),
    "a command as notes": (beside("notes.txt", p.PROTO + RUN + p.STOP), "SEC001"),
    "a command beside": (beside("scheduler.pt", p.PROTO + RUN + p.STOP), "SEC002"),
    "objects of numpy": (
        beside("a.npy", b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False}\n"), "SEC001"),
    "print": (opcodes(b"cbuiltins\nprint\n" + p.tuple_(p.text("boo")) + b"R"), "SEC002"),
    "a harmless name": (opcodes(b"cidlelib.run\nManageSocket\n)R"), "SEC002"),
    "INST": (opcodes(b"(" + p.text(COMMAND) + b"iposix\nsystem\n"), "SEC002"),
    "OBJ": (opcodes(b"(cposix\nsystem\n" + p.text(COMMAND) + b"o"), "SEC002"),
    "NEWOBJ": (opcodes(b"cbuiltins\nlist\n)\x81"), "SEC002"),
    "EXT1": (opcodes(b"\x82\x01"), "SEC002"),
    "STACK_GLOBAL": (
        pickled(p.zipped(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x05touch\x85R.")), "SEC002"),
    "PERSID": (opcodes(b"Pcanary\n"), "SEC002"),
    "BUILD": (opcodes(p.tensor(), b"}", p.text("a"), b"Nsb"), "SEC002"),
    "a memo bomb": (pickled(MEMO_BOMB), "SEC002"),
    "a memo bomb in a zip": (pickled(p.zipped(MEMO_BOMB)), "SEC002"),
    "nested": (opcodes(b")" + b"\x85" * 300_000), "SEC002"),
    "many lists": (opcodes(b"]" * 2_000_000), "SEC002"),
    "a giant text": (opcodes(b"X\xff\xff\xff\x7f"), "SEC002"),
    "a long number": (opcodes(b"\x8a\xff" + b"\x7f" * 255), "SEC002"),
    "long arguments": (opcodes(p.REBUILD, b"(" + b"N" * 300_000 + b"tR"), "SEC002"),
    "one name twice": (
        pickled(p.zipped(p.mapped(("a", p.tensor()), ("a", p.tensor())))), "SEC002"),
    "beyond the storage": (opcodes(p.tensor(offset=1)), "SEC002"),
    "more elements than bytes": (
        pickled(p.zipped(p.mapped(("a", p.tensor(shape=[2**46], stride=[0]))))), "FIL006"),
    "compressed": (pickled(p.zipped(b"]" * 10**7, method=zipfile.ZIP_DEFLATED)), "SEC002"),
    "two pickles": (
        pickled(p.zipped(more=[("archive/b/data.pkl", p.PROTO + RUN + p.STOP)])), "SEC002"),
    "entries that overlap": (pickled(larger(p.zipped(), 20)), "SEC002"),
    "a local header that lies": (pickled(patched(p.zipped(), 22, 1, 1, LOCAL)), "SEC002"),
    "a directory that lies": (pickled(patched(p.zipped(), 42, 2**31, 1, CENTRAL)), "SEC002"),
    "many entries": (pickled(patched(p.zipped(), 10, 60_000, 0, END, "<H")), "SEC002"),
    "cut short": (pickled(p.zipped()[:300]), "SEC002"),
}  # fmt: skip

_DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
HEADERS: dict[str, tuple[Make, str]] = {
    "an endless header": (weights(struct.pack("<Q", 2**63)), "WGT018"),
    "a deep header": (weights(whole(_DEEP)), "WGT001"),
    "a header of one number": (weights(whole(b'{"a":' + b"9" * 10**6 + b"}")), "WGT001"),
    "overlapping tensors": (weights(whole({**one(), "b": entry()}, bytes(4))), "WGT001"),
    "endless tensors": (weights(whole(one(shape=[2**62] * 9), bytes(4))), "WGT001"),
    "a tensor twice": (weights(whole(b'{"alpha":1,"alpha":2}')), "WGT001"),
    "an escape": (renamed(lambda name: f"{name}\x1b[2J"), "SEC011"),
    "a CI's command": (renamed(lambda name: f"{name}\n::set-env name=PATH::x"), "SEC011"),
    "letters from right to left": (renamed(lambda name: f"\u202e{name}"), "SEC011"),
    "a path for a name": (renamed(lambda name: f"../../../{name}"), "WGT003"),
    "very many tensors": (
        weights(
            whole(
                b"{"
                + b",".join(
                    b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i
                    for i in range(400_000)
                )
                + b"}"
            )
        ),
        "WGT001",
    ),
    "very many lists": (weights(whole(b'{"a":[' + b"[]," * 7_000_000 + b"[]]}")), "WGT001"),
    "a long note": (
        weights(whole(b'{"__metadata__":{"a":"' + b"x" * 60_000_000 + b'"}}')),
        "WGT001",
    ),
    "half a letter": (weights(whole(b'{"\\ud800":1}')), "WGT001"),
}
CONFIGS: dict[str, tuple[Make, str]] = {
    "a deep config": (config(_DEEP), "CFG001"),
    "a deep list": (config("[" * 200_000), "CFG001"),
    "a long number in JSON": (config('{"peft_type": "LORA", "r": ' + "9" * 10**6 + "}"), "CFG001"),
    "a large config": (config('{"peft_type": "' + "A" * 6_000_000 + '"}'), "CFG001"),
    "UTF-16": (config('{"peft_type": "LORA"}'.encode("utf-16")), "CFG001"),
    "a key twice": (config('{"peft_type": "LORA", "r": 1, "r": 2}'), "CFG002"),
    "a module to import": (
        changed(auto_mapping={"parent_library": "own", "base_model_class": "Own"}), "SEC003"),
    "a core to import": (changed(megatron_config={"a": 1}, megatron_core="os"), "SEC004"),
    "remote code": (
        changed(peft_type="PROMPT_TUNING", tokenizer_kwargs={"trust_remote_code": True}), "SEC005"),
    "a pointer": (config("version https://git-lfs.github.com/spec/v1\nsize 9\n"), "FIL002"),
    "10**9 ranks": (changed(r=10**9), "CFG010"),
    "many patterns": (changed(rank_pattern={f"a{i}": i for i in range(50_000)}), "CFG009"),
}  # fmt: skip
CONFIGS["many patterns for many modules"] = (
    many_modules(500, rank_pattern={f"a{i}": min(i, 2) for i in range(10_000)}), "CFG009",
)  # fmt: skip
EXPRESSIONS: dict[str, tuple[Make, str]] = {
    name: (changed(**{field: value}), "SEC008")
    for name, field, value in (
        ("a repeat of repeats", "target_modules", "(.*)*q_projX"),
        ("choices in a repeat", "exclude_modules", "(?:a|a)*b"),
        ("many repeats", "target_modules", ".*" * 20 + "X"),
        ("options in a repeat", "exclude_modules", "(?:x?){50}x{50}"),
        ("slow to compile", "exclude_modules", "(?i)" + "[\0-\U0010ffff]" * 400),
        (
            "many slow to compile",
            "rank_pattern",
            {"(?i)" + "[\0-\U0010ffff]" * 100 + str(i): 1 for i in range(100)},
        ),
        ("a repeat in rank_pattern", "rank_pattern", {"(q+)+k": 4}),
        ("a repeat in layers_pattern", "layers_pattern", ["(l+)+k"]),
        ("a repeat in modules_to_save", "modules_to_save", ["(s+)+k"]),
        ("a very long one", "target_modules", "q?" * 100_000),
    )
}
FILES: dict[str, tuple[Make, str]] = {
    "a link that leaves": (link("LICENSE", "/etc/passwd"), "FIL007"),
    "a link to nothing": (link("LICENSE", "nowhere"), "FIL007"),
    "a link to a device": (link("vocab.json", "/dev/zero"), "FIL007"),
    "a pipe": (lambda folder: os.mkfifo(folder / "README.md.fifo"), "FIL007"),
    "a pipe for weights": (
        lambda folder: (
            (folder / tiny.WEIGHTS_FILE).unlink(), os.mkfifo(folder / tiny.WEIGHTS_FILE)),
        "FIL007"),
    "a folder of itself": (link("loop", "."), "FIL007"),
    "a backslash": (beside("..\\x"), "FIL007"),
    "a disk": (beside("C:x"), "FIL007"),
    "a name of escapes": (beside("\x1b[2Ja.txt"), "FIL007"),
    "one name in two cases": (twin("notice", "NOTICE"), "FIL007"),
    "an accent in two ways": (twin("\u00e9.md", "e\u0301.md"), "FIL007"),
    "an index that leaves": (
        beside("adapter_model.safetensors.index.json",
               json.dumps({"weight_map": {"a": "../../x.safetensors"}})), "FIL007"),
    "a template": (
        beside("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}"), "SEC009"),
    "open tags": (beside("chat_template.jinja", "{{'" * 60_000 + "|attr('a')"), "SEC009"),
    "code": (beside("setup.py", f"import os; os.system({COMMAND!r})"), "SEC007"),
    "a path file": (beside("a.pth", f"import os; os.system({COMMAND!r})"), "SEC007"),
    "tokenizers of empty lists": (
        lambda folder: [
            beside(name, b'{"a":[' + b"[]," * 3_900_000 + b"[]]}")(folder)
            for name in ("tokenizer.json", "added_tokens.json", "vocab.json")
        ] + [(folder / "README.md").unlink()],
        "CRD001"),
    "aliases": (
        beside("README.md", "---\na: &a [x, x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20))
            + "---\n"), "CRD001"),
    "a deep card": (beside("README.md", "---\na: " + "[" * 50_000 + "\n---\n"), "CRD001"),
}  # fmt: skip

EVERY = PICKLES | HEADERS | CONFIGS | EXPRESSIONS | FILES
