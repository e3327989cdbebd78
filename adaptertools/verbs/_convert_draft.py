"""Where a conversion is written: a folder or a file that gets its name when all is done."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from adaptertools.errors import Unsafe, shown
from adaptertools.facts import File

_BESIDE = (
    "README.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "tokenizer*.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "*.model", "*.tiktoken", "chat_template.*", "normalizer.json", "*processor_config.json",
)  # fmt: skip
RECEIPT = "adaptertools.convert.json"


def beside(files: Mapping[str, File], *more: str) -> list[File]:
    """Choose what comes along: card, licence, tokenizer, and `more` by name."""
    return [
        file
        for file in files.values()
        if file.kind in ("file", "link")
        and any(fnmatch.fnmatchcase(file.name, p) for p in (*more, *_BESIDE))
        and "/" not in file.name
    ]


def receipt_of(out: Path) -> Path:
    """Name the receipt of a file, which lies beside it."""
    return out.with_name(f"{out.name}.convert.json")


@contextmanager
def drafted(out: Path, only: str = "") -> Iterator[Path]:
    """Give a folder to write to, and its name to it at the end; nothing is left of what fails.

    With `only`, the name of a file in it, that file gets the name, and the receipt one beside it.
    Raises Unsafe where the name, or that of an earlier try, is taken.
    """
    receipt = receipt_of(out)
    for path in (out, receipt) if only else (out,):
        if path.exists() or path.is_symlink():
            raise Unsafe(f"{shown(path)} exists already. Choose another --out, or delete it.")
    draft = out.with_name(out.name + ".partial")
    try:
        draft.mkdir(parents=True)
    except FileExistsError:
        raise Unsafe(f"{shown(draft)} is there from an earlier run. Delete it.") from None
    try:
        yield draft
        if only:
            (draft / RECEIPT).rename(receipt)
            (draft / only).rename(out)
            draft.rmdir()
        else:
            draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
