"""Write a conversion into its place: the format's files, what comes along, a receipt, a verdict."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaptertools.adapter import Adapter
from adaptertools.errors import Unsupported
from adaptertools.formats import Ask, Writer, Wrote
from adaptertools.report import Finding, plain
from adaptertools.tensorfile import FLOATS
from adaptertools.verbs._convert_draft import RECEIPT, beside, drafted
from adaptertools.verbs._convert_source import Taken
from adaptertools.verbs._convert_target import Aim
from adaptertools.verbs._place import listed
from adaptertools.verbs._written import read, written
from adaptertools.version import VERSION


def write(
    source: Adapter, taken: Taken, aim: Aim, writer: Writer, out: Path, ask: Ask, dry_run: bool
) -> tuple[dict[str, Any], list[Finding]]:
    """Write, and say how exact it was; a dry run does all of it elsewhere. `source` is as read.

    Raises what the writer raises, Unsupported for what the target would refuse of the result.
    """
    only = bool(writer.SUFFIX) and out.suffix == writer.SUFFIX
    if only and aim.beside:
        raise Unsupported("A Modelfile lies beside the GGUF file. Give a folder as --out.")

    def into(draft: Path) -> tuple[dict[str, Any], list[Finding]]:
        wrote = writer.write(taken.adapter, draft, ask)
        facts = _facts(taken.adapter, aim.to, out, wrote) | {"dry_run": dry_run}
        if taken.lossy:
            how = "exact up to dtype" if taken.lossy["whole"] else "approximate"
            facts |= {"lossy": taken.lossy, "exactness": how}
        facts["copied"] = [] if writer.SUFFIX else _copied(taken.adapter, draft)
        judged = aim.check(draft, taken.adapter, wrote.files)
        said = [*taken.findings, *wrote.findings, *judged.pop("findings", ())]
        facts |= judged
        names = {_main(writer): out.name} if only else {}
        (draft / RECEIPT).write_text(receipt(facts, said, read(source), draft, names), "utf-8")
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


def receipt(
    facts: Mapping[str, Any], findings: Sequence[Finding], source: Mapping[str, Any], draft: Path,
    names: Mapping[str, str],
) -> str:  # fmt: skip
    """Say from what, how exact, and what was written, without paths of this machine."""
    said = {k: v for k, v in facts.items() if k not in ("out", "dry_run", "copied")}
    body = {
        "adaptertools": VERSION, **said, "findings": [f"{f.code}: {f.text}" for f in findings],
        "source": source, "written": written(draft, names),
    }  # fmt: skip
    return json.dumps(plain(body), indent=2) + "\n"
