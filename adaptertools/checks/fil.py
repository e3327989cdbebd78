"""Are the files of an adapter there, and nothing but them?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from adaptertools import jsontext
from adaptertools.checks import _files, check
from adaptertools.checks._files import CONFIG, INDEX, PICKLED, WEIGHTS
from adaptertools.errors import first, shown
from adaptertools.facts import Facts, File, Found, Result

_COPY = re.compile(r"\bcopy\b|\(\d+\)|[-_. ](?:old|bak|backup|orig|tmp|copy)\b|~$", re.I)
_SHARD = re.compile(r"adapter_model-\d{1,6}-of-\d{1,6}\.(?:safetensors|bin)")
_SUFFIXES = (".safetensors", ".bin", ".npz", ".pt", ".ckpt")
_UNSAFE = (
    (re.compile(r"[/\\]|[A-Za-z]:"), "begins at the root of a disk"),
    (re.compile(r"(?:.*[/\\])?\.\.(?:[/\\]|$)"), "leaves the folder"),
    (re.compile(r".*\\", re.S), "holds a backslash, which parts folders on Windows"),
    (re.compile(r"[^\0-\x1f\x7f-\x9f]*[\0-\x1f\x7f-\x9f]"), "holds a control letter"),
)


@check("FIL001", "the weights are there", fix="Add the file that training saved.")
def weights_are_there(files: Mapping[str, File], dialect: str) -> Result:
    """An adapter without weights loads as the base model, or not at all.

    PEFT reads adapter_model.safetensors, and adapter_model.bin where that is missing, from the
    folder itself. One in five adapter folders found in public has neither. PEFT 0.21 reads none
    that was cut into shards, with an index or without.
    """
    wanted = _files.WEIGHTS_OF.get("peft" if dialect == "none" else dialect)
    if wanted is None or any(name in files for name in wanted):
        return
    if INDEX in files or any(map(_SHARD.fullmatch, files)):
        yield from _shards(files)
        return
    below = [n for n in files if n.rpartition("/")[2] in wanted]
    found = [n for n in files if n.endswith(_SUFFIXES) and _files.top(n)]
    text = f"there is no {' and no '.join(wanted)}"
    if below:
        yield Found(text=f"{text} here; there is {first(below)}", hint="Give that folder.")
    elif found:
        yield Found(text=f"{text}; there is {first(found)}", hint="Rename it if it is the adapter.")
    else:
        yield Found(text=text)


def _shards(files: Mapping[str, File]) -> Iterator[Found]:
    """Say that shards are not read, and hold their index against the files."""
    shards = list(filter(_SHARD.fullmatch, files))
    named = _mapped(files[INDEX]) if INDEX in files else shards
    if every := sorted({*shards, *named}):
        yield Found(
            text=f"the weights are in shards, {first(every, 2)}, and PEFT reads {WEIGHTS} alone",
            file=INDEX if INDEX in files else every[0],
            hint=f"Load the tensors of all shards, and save them as one {WEIGHTS}.",
        )
    else:
        yield Found(text=f"{INDEX} lists no files", file=INDEX)
    if missing := [name for name in named if name not in files]:
        yield Found(text=f"{INDEX} lists {first(missing)}, not there", file=INDEX)


def _mapped(index: File) -> list[str]:
    """Give the files that an index names."""
    value = jsontext.read(index.read()).value
    mapped = value.get("weight_map") if isinstance(value, dict) else None
    names = mapped.values() if isinstance(mapped, dict) else ()
    return sorted({name for name in names if isinstance(name, str)})


@check(
    "FIL002", "no file is a Git LFS pointer",
    fix="Fetch it with `git lfs pull`; in GitHub's checkout action, set `lfs: true`.", reads=True,
)  # fmt: skip
def pointers(files: Mapping[str, File]) -> Result:
    """Where Git LFS is not installed, a clone holds a few lines of text for each large file.

    Loaders then speak of a damaged header or of invalid JSON.
    """
    for name, file in files.items():
        if (size := _files.pointed(file)) is not None:
            text = f"{shown(name)} is a Git LFS pointer in place of {size} bytes"
            yield Found(text=text, file=name)


@check(
    "FIL003", "the weights are there once", level="warning",
    fix="Keep adapter_model.safetensors and delete the others.",
)  # fmt: skip
def once(files: Mapping[str, File]) -> Result:
    """Of several weights PEFT takes adapter_model.safetensors, whichever is newer.

    What was trained last and saved under another name is never loaded.
    """
    if WEIGHTS in files:
        for name in (PICKLED, INDEX):
            if name in files:
                yield Found(text=f"{name} is there beside {WEIGHTS}, which is read", file=name)
    weights = [n for n in files if n.endswith(_SUFFIXES) and _files.top(n)]
    for name in weights:
        if _COPY.search(name):
            yield Found(text=f"{shown(name)} looks like a copy", file=name)
    sizes = Counter(files[name].size for name in weights)
    for size in (size for size, count in sizes.items() if count > 1 and size):
        same = [name for name in weights if files[name].size == size]
        if _equal(files[same[0]], files[same[1]]):
            text = f"{shown(same[0])} and {shown(same[1])} are equal byte for byte"
            yield Found(text=text, file=same[1])


def _equal(one: File, other: File) -> bool:
    if one.digest and other.digest:
        return one.digest == other.digest
    if {one.kind, other.kind} - {"file", "link"}:
        return False
    with one.path.open("rb") as left, other.path.open("rb") as right:
        while part := left.read(1 << 20):
            if part != right.read(1 << 20):
                return False
    return True


@check(
    "FIL004", "nothing of the training is left over", level="warning",
    fix="Delete it from what you publish; nothing that loads the adapter reads it.",
)  # fmt: skip
def leftovers(files: Mapping[str, File]) -> Result:
    """States of optimisers are pickles and many times the adapter's size; logs name machines.

    One in three public adapters has a training_args.bin, one in eight an optimizer state.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in files:
        if _files.like(name, _files.LEFTOVERS):
            found[name.partition("/")[0]].append(name)
    for place, names in found.items():
        several = f"{shown(place)}/ holds {len(names)} files of the training"
        text = several if names != [place] else f"{shown(place)} is of the training"
        yield Found(text=text, file=names[0])


@check(
    "FIL005", "no whole model lies beside the adapter", level="warning",
    fix="Publish the merged model in a repository of its own.",
)  # fmt: skip
def whole_models(files: Mapping[str, File]) -> Result:
    """transformers looks for both, and which one is loaded depends on its version and the call.

    With adapter and merged model in one folder the adapter may be applied twice, or not at all.
    https://github.com/huggingface/peft/issues/1381
    """
    if CONFIG in files:
        for name in files:
            if _files.top(name) and _files.like(name, _files.WHOLE):
                yield Found(text=f"{shown(name)} belongs to a whole model", file=name)


@check(
    "FIL007", "names and links stay in the folder", fix="Rename it, or copy the file itself here.",
)  # fmt: skip
def stays_inside(files: Mapping[str, File]) -> Result:
    r"""A name such as `../x`, `C:\x` or a link can make a program write or read elsewhere.

    Names that differ in case or in how their accents are spelled are one file on macOS and Windows.
    """
    named = [*files, *(_mapped(files[INDEX]) if INDEX in files else ())]
    for name in named:
        if why := next((why for pattern, why in _UNSAFE if pattern.match(name)), ""):
            yield Found(text=f"the name {shown(name)} {why}", file=name if name in files else INDEX)
    for name, file in files.items():
        if file.kind == "outside":
            yield Found(text=f"{shown(name)} is a link to no file of this folder", file=name)
        elif file.kind == "other":
            yield Found(text=f"{shown(name)} is no file but a pipe, socket or device", file=name)
    yield from _collisions(files)


def _collisions(files: Mapping[str, File]) -> Iterator[Found]:
    import unicodedata

    same: defaultdict[str, list[str]] = defaultdict(list)
    for name in files:
        same[unicodedata.normalize("NFC", name).casefold()].append(name)
    for names in same.values():
        if len(names) > 1:
            text = f"{first(names)} are one file where case and accents do not count"
            yield Found(text=text, file=names[1])


@check(
    "FIL008", "every file is read by somebody", level="warning",
    fix="Delete what nobody needs, or say in README.md what it is for.",
)  # fmt: skip
def unused(facts: Facts) -> Result:
    """Neither PEFT nor a tokenizer reads these, so they are in the folder by mistake or for people.

    What README.md speaks of is left alone, as is everything that another check names.
    """
    if facts.dialect != "peft":
        return
    said = facts.card.body if facts.card else ""
    groups = (_files.READ, _files.LEFTOVERS, _files.WHOLE, _files.CODE, _files.SCRIPTS)
    pickles = {each.file for each in facts.pickles}
    strange = [
        name
        for name in facts.files
        if not any(_files.like(name, group) for group in groups)
        and not (name in pickles or _COPY.search(name) or name.rpartition("/")[2] in said)
    ]
    if strange:
        text = f"nothing that loads the adapter reads {first(strange)}"
        yield Found(text=text, file=strange[0])
