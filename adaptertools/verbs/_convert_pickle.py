"""A pickled PEFT adapter becomes safetensors, bit for bit, without being unpickled."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from adaptertools import hub
from adaptertools.dialect import NAMES, dialect
from adaptertools.errors import NotFound, Unsafe, Unsupported, first, shown
from adaptertools.facts import File
from adaptertools.formats import _bin
from adaptertools.formats.peft import CONFIG, WEIGHTS
from adaptertools.hub import digests
from adaptertools.picklefile import Listing
from adaptertools.report import Finding, Level, Report
from adaptertools.verbs._convert_draft import RECEIPT, beside, drafted
from adaptertools.verbs._convert_write import receipt
from adaptertools.verbs._place import listed
from adaptertools.verbs._stack_told import short

PICKLED = "adapter_model.bin"

_GROWTH = 8  # times its size that a file may grow when shared bytes are written out
_SMALL = 1_000_000


def convert(
    thing: str | Path, out: str | Path, dry_run: bool, progress: Callable[[int], None]
) -> Report:
    """Write safetensors, with config, card, licence and tokenizer; equal to what torch would load.

    Raises NotFound where config or pickle are missing, Unsafe where the pickle would run code or
    `out` exists, Unreadable where it is damaged, Unsupported where it is safetensors already.
    """
    folder, name = _source(thing)
    files = listed(folder)
    held = _bin.listing(_plain(files, name, folder))
    _plain(files, CONFIG, folder)
    _check_growth(held, files[name].size)
    kept = beside(files, CONFIG)
    facts = {
        "format": "peft", "out": str(out), "tensors": len(held.tensors),
        "bytes": sum(spec.nbytes for spec in held.tensors.values()),
        "copied": [file.name for file in kept], "exactness": "exact", "dry_run": dry_run,
    }  # fmt: skip
    said = _said(held, files, kept, name)
    if not dry_run:
        read = {each: digests.sha256(files[each].path) for each in (CONFIG, name)}
        source = {"ref": short(str(thing)), "files": dict(sorted(read.items()))}
        with drafted(Path(out)) as draft:
            _write(held, kept, draft, progress)
            text = receipt(facts, said, source, draft, {})
            (draft / RECEIPT).write_text(text, "utf-8")
    return Report(verb="convert", subject=str(thing), findings=tuple(said), facts=facts)


def _source(thing: str | Path) -> tuple[Path, str]:
    """Give the folder and the name of the pickle in it."""
    if (path := Path(thing)).is_file():
        return path.parent, path.name
    folder = hub.local(thing, "adapter")
    if (folder / WEIGHTS).is_file():
        raise Unsupported(
            f"{shown(folder)} has {WEIGHTS} already, so there is nothing to convert. "
            "To convert a pickle beside it, name that file; to make a LoRA of another method, pass "
            "--to plain."
        )
    return folder, PICKLED


def _plain(files: Mapping[str, File], name: str, folder: Path) -> Path:
    if name not in files:
        raise NotFound(
            f"{shown(folder)} has no {shown(name)}. A PEFT adapter is {PICKLED} and {CONFIG}."
        )
    if files[name].kind not in ("file", "link"):
        raise Unsafe(
            f"{shown(folder / name)} is a link that leaves its folder, or no plain file. "
            "Copy the file itself."
        )
    return files[name].path


def _check_growth(held: Listing, size: int) -> None:
    """Refuse what unfolds: a few bytes can be the storage of any number of tensors."""
    total = sum(spec.nbytes for spec in held.tensors.values())
    if total > _GROWTH * size + _SMALL:
        raise Unsafe(
            f"{shown(held.file)} has {size} bytes and would become {total}: its tensors share "
            "theirs. Save it again with the tensors cloned, if it is yours."
        )


def _write(held: Listing, kept: list[File], draft: Path, progress: Callable[[int], None]) -> None:
    """Write the tensors, and what comes along."""
    _bin.save(held, draft / WEIGHTS, progress)
    for file in kept:
        shutil.copyfile(file.path, draft / file.name)


def _said(
    held: Listing, files: Mapping[str, File], kept: list[File], name: str
) -> list[Finding]:  # fmt: skip
    said = []

    def say(code: str, level: Level, text: str, hint: str = "") -> None:
        said.append(Finding(code=code, level=level, place=name, text=text, hint=hint))

    if (kind := dialect(files[CONFIG].read(), files=files)) != "peft":
        say("CNV001", "warning", f"{CONFIG} is copied as it is, and by its keys it is that of "
            f"{NAMES[kind]}: PEFT will not read it.")  # fmt: skip
    places = {(spec.start, spec.stop) for spec in held.tensors.values() if spec.nbytes}
    if len(places) < sum(bool(spec.nbytes) for spec in held.tensors.values()):
        say("CNV002", "note", "Tensors that shared bytes are written out each for itself.")
    if held.strided:
        say("CNV003", "note", f"Views are written out in one piece: {first(held.strided)}.")
    if left := [file for file in files if file != name and files[file] not in kept]:
        say("CNV004", "note", f"{len(left)} other files are not copied: {first(left)}.")
    return said
