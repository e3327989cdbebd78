"""Does loading a file of the folder run code that it brings?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from adaptertools import picklefile
from adaptertools.checks import _files, check
from adaptertools.errors import first, shown
from adaptertools.facts import Facts, File, Found, Pickle, Result

# Two letters that begin a pickle, and an opcode; not the length that begins a safetensors file.
_HEAD = re.compile(rb"\x80[\x02-\x05][\x28-\x95][^\0]")
_OBJECTS = re.compile(rb"'descr':[^}]{0,200}\|O")  # a numpy array of Python objects


@check(
    "SEC001",
    "no file is a pickle",
    fix="Run `adaptertools convert` and share safetensors.",
    reads=True,
)
def no_pickles(pickles: Sequence[Pickle], facts: Facts) -> Result:
    """Loading a pickle runs what it says. PEFT before 0.13.0 let it run anything.

    `weights_only=True` has been broken since: CVE-2025-32434 (torch up to 2.5.1), CVE-2026-24747
    (before 2.10). A pickle that names nothing but tensors is a warning, any other an error. Files
    are read as lists of opcodes; nothing is unpickled.
    """
    for each in _real(pickles, facts.files):
        harmless = not each.refused and not picklefile.foreign(each.globals)
        names = f"it names {first(each.globals)}" if each.globals else "what it names is unknown"
        level = "warning" if harmless else "error"
        text = f"{shown(each.file)} is loaded as a pickle; {names}"
        yield Found(text=text, file=each.file, level=level)
    known = {each.file for each in pickles} | ({facts.weights.file} if facts.weights else set())
    for name, what in _hidden(facts.files, known):
        text = f"{shown(name)} is {what}, whatever its name says"
        yield Found(text=text, file=name, hint="Delete it, and do not load it.")


@check(
    "SEC002",
    "no pickle does more than hold tensors",
    fix="Delete it, and do not load it.",
    reads=True,
)
def safe_pickles(pickles: Sequence[Pickle], facts: Facts) -> Result:
    """What a saved state dict needs is fourteen names and some thirty opcodes; all else is refused.

    Scanners that list what is bad miss things: one reports no infection for a file that calls a
    function, because it does not know the function. So a file is also refused for what cannot be
    read in one way only: compressed entries, several pickles, directories that disagree.
    """
    for each in _real(pickles, facts.files):
        strange = picklefile.foreign(each.globals)
        if each.refused or strange:
            why = shown(each.refused or "it names what saved tensors do not need")
            rest = [name for name in strange if name not in why]
            more = f"; it also names {first(rest)}" if rest else ""
            yield Found(text=f"{shown(each.file)}: {why}{more}", file=each.file)


def _real(pickles: Sequence[Pickle], files: Mapping[str, File]) -> Iterator[Pickle]:
    """Leave out pointers, whose files were not fetched: FIL002 says so."""
    for each in pickles:
        if each.file not in files or not _files.pointed(files[each.file]):
            yield each


def _hidden(files: Mapping[str, File], known: set[str]) -> Iterator[tuple[str, str]]:
    """Find pickles under other names: scanners have been fooled by a changed extension."""
    for name, file in files.items():
        if name in known:
            continue
        head = file.read(300)
        if _HEAD.match(head):
            yield name, "a pickle"
        elif head.startswith(b"PK\3\4") and b"/data.pkl" in head:
            yield name, "a file of torch.save, which is a pickle"
        elif head.startswith(b"\x93NUMPY") and _OBJECTS.search(head):
            yield name, "a numpy array of objects, which is a pickle"
