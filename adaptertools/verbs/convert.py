"""Convert an adapter to another format, through the normal form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from adaptertools import hub, plugins
from adaptertools.adapter import Adapter
from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.formats import Ask, Writer, Wrote
from adaptertools.report import Finding, Report, plain
from adaptertools.tensorfile import FLOATS
from adaptertools.verbs import _convert_pickle
from adaptertools.verbs._config import dtype_code
from adaptertools.verbs._convert_draft import RECEIPT, beside, drafted
from adaptertools.verbs._convert_source import take
from adaptertools.verbs._place import listed
from adaptertools.verbs.open import open_adapter, place, recognised
from adaptertools.version import VERSION


def formats() -> tuple[str, ...]:
    """Name the formats that can be written."""
    every = plugins.names("formats")
    return tuple(name for name in every if hasattr(plugins.load("formats", name), "write"))


def _silent(count: int) -> None:
    """Take progress and say nothing."""


def convert(
    thing: str | Path | Adapter, *, out: str | Path, to: str = "peft", source: str | None = None,
    base: str | Path | None = None, rank: int | None = None, dtype: str | None = None,
    drop_extras: bool = False, dry_run: bool = False, options: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = _silent,
) -> Report:  # fmt: skip
    """Write an adapter in another format, into a place that is not there yet.

    Args:
        thing: a folder, a file, a Hub reference, or an open adapter.
        out: the folder to write, or the file where the format is one file and `out` is named so.
        to: "peft", "plain" (PEFT with one rank and alpha, which every reader takes), "mlx" …
        source: the format that it is in, where files of several lie together.
        base: the base's folder, for names that cannot be told without it.
        rank: pad all modules to this rank with zeros, where the target has one rank.
        dtype: of the factors. None keeps the stored one, or float32 where folding a scale into
            them would round in it.
        drop_extras: leave out what the target cannot hold, instead of refusing.
        dry_run: do everything in a temporary folder, and say how exact it was.
        options: of one format only, by name.
        progress: called with bytes written, of a pickle.

    No pickle is unpickled. A pickled PEFT adapter becomes PEFT's safetensors bit for bit.

    Raises Unsupported for what `to` cannot hold, NotFound where files are missing, Unsafe where a
    pickle would run code or `out` exists, Unreadable for damage, NaN, and several formats at once.
    """
    if to not in formats():
        raise Unsupported(
            f"--to {shown(to)}: that format cannot be written. Known: {', '.join(formats())}."
        )
    if not isinstance(thing, Adapter):
        found = _one(thing, source)
        if to == "peft" and found in (None, "peft"):
            return _convert_pickle.convert(thing, out, dry_run, progress)
    writer = cast(Writer, plugins.load("formats", to))
    ask = Ask(
        dtype=_dtype(dtype, writer), rank=rank, options=options or {},
        base=_base(base) if base else None,
    )  # fmt: skip
    adapter = (
        thing if isinstance(thing, Adapter) else open_adapter(thing, format=found, base=ask.base)
    )
    taken = take(adapter, to, writer, drop_extras, ask.base)
    facts, said = _write(taken.adapter, to, writer, Path(out), ask, taken.findings, dry_run)
    return Report(verb="convert", subject=str(adapter.ref), facts=facts, findings=tuple(said))


def _dtype(name: str | None, writer: Writer) -> str | None:
    """Give a dtype's code; a format may have some of its own."""
    if name is None or name.upper() in getattr(writer, "DTYPES", ()):
        return name and name.upper()
    return dtype_code(name)


def _base(base: str | Path) -> Path:
    """Give the base's folder; a file, such as a GGUF, is for the format to understand."""
    return Path(base) if Path(base).is_file() else hub.local(base, "base")


def _one(thing: str | Path, source: str | None) -> str | None:
    """Tell the format; None for a file that only its content can tell, such as a pickle."""
    path, files = place(thing)
    found = recognised(files)
    if source is None and len(found) > 1 and not _shared_name(found, files):
        raise Unreadable(
            f"{shown(path)} holds adapters of several formats: {', '.join(found)}. Say which one "
            "with --from, or name its file."
        )
    return source or (found[0] if found else None)


def _shared_name(found: list[str], files: list[str]) -> bool:
    """Tell whether PEFT is only among them because others' config has the name of PEFT's."""
    from adaptertools.dialect import WEIGHTS

    return len(found) == 2 and found[1] == "peft" and set(WEIGHTS).isdisjoint(files)


def _write(
    adapter: Adapter, to: str, writer: Writer, out: Path, ask: Ask, findings: tuple[Finding, ...],
    dry_run: bool,
) -> tuple[dict[str, Any], list[Finding]]:  # fmt: skip
    """Write, and say how exact it was; a dry run does all of it elsewhere."""
    only = bool(writer.SUFFIX) and out.suffix == writer.SUFFIX

    def into(draft: Path) -> tuple[dict[str, Any], list[Finding]]:
        wrote = writer.write(adapter, draft, ask)
        facts = _facts(adapter, to, out, wrote) | {"dry_run": dry_run}
        facts["copied"] = [] if writer.SUFFIX else _copied(adapter, draft)
        said = [*findings, *wrote.findings]
        (draft / RECEIPT).write_text(_receipt(facts, said), "utf-8")
        return facts, said

    if dry_run:
        with TemporaryDirectory(prefix="adaptertools-") as room:
            return into(Path(room))
    name = _main(writer) if only else ""
    with drafted(out, name) as draft:
        return into(draft)


def _main(writer: Writer) -> str:
    """Give the file that a format of one file writes."""
    return str(getattr(writer, "NAME", f"adapter{writer.SUFFIX}"))


def _facts(adapter: Adapter, to: str, out: Path, wrote: Wrote) -> dict[str, Any]:
    dtypes = sorted({spec.dtype for e in adapter.entries for spec in e.parts.values()})
    return {
        "format": to, "from": adapter.format, "out": str(out), "files": wrote.files,
        "tensors": wrote.tensors, "bytes": wrote.nbytes, "folded": wrote.folded,
        "padded": wrote.padded, "error": wrote.error, "read": [FLOATS[d] for d in dtypes],
        "exactness": "exact" if not wrote.error else "exact up to dtype",
    }  # fmt: skip


def _copied(adapter: Adapter, draft: Path) -> list[str]:
    """Copy card, licence and tokenizer."""
    kept = beside(listed(Path(adapter.folder))) if Path(adapter.folder).is_dir() else []
    kept = [file for file in kept if not (draft / file.name).exists()]
    for file in kept:
        shutil.copyfile(file.path, draft / file.name)
    return [file.name for file in kept]


def _receipt(facts: Mapping[str, Any], findings: list[Finding]) -> str:
    """Say from what and how exact, without paths of this machine."""
    said = {k: v for k, v in facts.items() if k not in ("out", "dry_run", "copied")}
    body = {"adaptertools": VERSION, **said, "findings": [f"{f.code}: {f.text}" for f in findings]}
    return json.dumps(plain(body), indent=2) + "\n"
