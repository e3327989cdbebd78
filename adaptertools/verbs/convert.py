"""Convert an adapter to another format, through the normal form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from adaptertools import hub, plugins
from adaptertools.adapter import Adapter
from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.formats import Ask, Writer
from adaptertools.report import Report
from adaptertools.verbs import _convert_pickle
from adaptertools.verbs._config import dtype_code
from adaptertools.verbs._convert_experts import arranged
from adaptertools.verbs._convert_near import Lossy
from adaptertools.verbs._convert_source import take
from adaptertools.verbs._convert_target import Aim, aim
from adaptertools.verbs._convert_write import write
from adaptertools.verbs.open import open_adapter, place, recognised


def formats() -> tuple[str, ...]:
    """Name the formats that can be written."""
    every = plugins.names("formats")
    return tuple(name for name in every if hasattr(plugins.load("formats", name), "write"))


def _silent(count: int) -> None:
    """Take progress and say nothing."""


def convert(
    thing: str | Path | Adapter, *, out: str | Path, to: str | None = None,
    source: str | None = None, target: str | None = None,
    base: str | Path | None = None, rank: int | str | None = None, dtype: str | None = None,
    drop_extras: bool = False, dry_run: bool = False, options: Mapping[str, str] | None = None,
    experts: str | None = None, expert_packing: str | None = None, allow_lossy: bool = False,
    foreseen: Callable[[Mapping[str, Any]], None] | None = None,
    progress: Callable[[int], None] = _silent,
) -> Report:  # fmt: skip
    """Write an adapter in another format, into a place that is not there yet.

    Args:
        thing: a folder, a file, a Hub reference, or an open adapter.
        out: the folder to write, or the file where the format is one file and `out` is named so.
        to: "peft", "plain" (PEFT with one rank and alpha), "mlx" …; None is what `target` reads.
        target: where it shall be served, such as "vllm"; what that refuses of it is refused.
        source: the format that it is in, where files of several lie together.
        base: the base's folder, for names and updates that cannot be told without it.
        rank: pad all modules to this rank, where the target has one. With `allow_lossy` what to
            keep: a number, "energy:0.99" of each module's ‖ΔW‖², "auto" (all but rounding).
        dtype: of the factors. None keeps the stored one, or float32 where folding would round.
        drop_extras: leave out what the target cannot hold, instead of refusing.
        dry_run: do everything in a temporary folder, and say how exact it was.
        options: of one format only, by name.
        experts: "split", "fused" (PEFT from 0.19.1 on) or "fused-0.18"; takes the `base`'s config.
        expert_packing: "peft" or "expert-major" (Unsloth before 2026-09), of what is fused.
        allow_lossy: of what no LoRA is the same as, write the nearest, of rank 16 where none is
            asked for; `foreseen` gets its figures, `facts["lossy"]`, before anything is written.
        progress: called with bytes written, of a pickle.

    No pickle is unpickled. A pickled PEFT adapter becomes PEFT's safetensors bit for bit.

    Raises Unsupported for what `to` cannot hold, NotFound where files are missing, Unsafe where a
    pickle would run code or `out` exists, Unreadable for damage, NaN, and several formats at once.
    """
    aimed = aim(target, to, options or {})
    writer = _writer(aimed.to)
    found = None if isinstance(thing, Adapter) else _one(thing, source)
    ask, lossy = _asked(aimed, writer, base, rank, dtype, allow_lossy)
    bitwise = aimed.to == "peft" and found in (None, "peft")
    if bitwise and not isinstance(thing, Adapter) and not (experts or target or allow_lossy):
        return _convert_pickle.convert(thing, out, dry_run, progress)
    adapter = open_adapter(thing, format=found, base=ask.base)
    lay = arranged(adapter, aimed.to, writer, experts, expert_packing, ask.base)
    taken = take(lay.adapter, aimed.to, lay.writer, drop_extras, ask.base, lay.doubts, lossy)
    if foreseen is not None and taken.lossy:
        foreseen(taken.lossy)
    facts, said = write(adapter, taken, aimed, lay.writer, Path(out), ask, dry_run)
    return Report(verb="convert", subject=str(adapter.ref), facts=facts, findings=tuple(said))


def _asked(
    aimed: Aim, writer: Writer, base: str | Path | None, rank: int | str | None, dtype: str | None,
    allow_lossy: bool,
) -> tuple[Ask, Lossy]:  # fmt: skip
    """Give what is wanted of the writer, and what may be lost before; --rank is of one of them."""
    code = _dtype(dtype, writer)
    lossy = Lossy.of(allow_lossy, rank, code)
    padded = None if allow_lossy and aimed.to == "peft" else lossy.number
    place = _base(base) if base else None
    return Ask(dtype=code, options=aimed.options, rank=padded, base=place), lossy


def _writer(to: str) -> Writer:
    if to not in formats():
        raise Unsupported(
            f"--to {shown(to)}: that format cannot be written. Known: {', '.join(formats())}."
        )
    return cast(Writer, plugins.load("formats", to))


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
