"""Does the folder bring code, or names that fool who reads them?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from adaptertools import jsontext
from adaptertools.checks import _files, check
from adaptertools.errors import shown
from adaptertools.facts import Facts, File, Found, Result

_MAPPED = ("config.json", "tokenizer_config.json", "processor_config.json",
           "preprocessor_config.json", "generation_config.json")  # fmt: skip
_COMMAND = re.compile(r"::[A-Za-z-]+(?: [^\n:]*)?::|^\s*##\[", re.M)  # of a CI's log


@check(
    "SEC007",
    "the folder brings no code",
    fix="Publish code in a repository of its own.",
    reads=True,
)
def code(files: Mapping[str, File]) -> Result:
    """An adapter is numbers and needs no code of its own.

    Python files end up on the path where somebody clones and runs, a .pth file with `import` runs
    with every start of Python, and `auto_map` makes transformers run files of the repository.
    """
    for name, file in files.items():
        if _files.like(name, _files.CODE) or _imports(file):
            yield Found(text=f"{shown(name)} is code", file=name)
        elif _files.like(name, _files.SCRIPTS):
            yield Found(text=f"{shown(name)} is a script", file=name, level="warning")
    for name in _MAPPED:
        if name in files:
            read = jsontext.read(files[name].read())
            if isinstance(read.value, dict) and read.value.get("auto_map"):
                line, column = read.at("/auto_map")
                text = f"auto_map in {name} names classes that come with the repository"
                yield Found(text=text, file=name, pointer="/auto_map", line=line, column=column)


def _imports(file: File) -> bool:
    """Tell whether it is a path file of Python that runs something, and no weights of torch."""
    if not file.name.lower().endswith(".pth") or file.size > 100_000:
        return False
    head = file.read()
    return b"\0" not in head and any(line.startswith(b"import") for line in head.splitlines())


@check(
    "SEC011", "names hold nothing that steers a terminal or a CI", level="warning",
    fix="Rename it with plain letters.",
)  # fmt: skip
def names(facts: Facts) -> Result:
    """Names of tensors and files end up in logs, and safetensors takes any text for a name.

    Control letters recolour or erase lines of a terminal, letters that turn the direction make a
    name look like another, and `::` commands are obeyed by a CI that prints them.
    """
    for name in facts.files:
        if why := _odd(name):
            yield Found(text=f"the file name {shown(name)} holds {why}", file=name)
    if facts.weights is None:
        return
    every = "".join(facts.weights.tensors)
    plain = every.isprintable() and "::" not in every and "##[" not in every
    for name in () if plain else facts.weights.tensors:
        if why := _odd(name):
            text = f"the tensor name {shown(name)} holds {why}"
            yield Found(text=text, file=facts.weights.file, tensor=name)
    for key, value in facts.weights.metadata.items():
        if why := _odd(key) or _odd(re.sub(r"[\n\r\t]", " ", value)):
            text = f"the metadata {shown(key)} holds {why}"
            yield Found(text=text, file=facts.weights.file)


def _odd(text: str) -> str:
    if not text.isprintable():
        strange = next(char for char in text if not char.isprintable())
        return f"the letter U+{ord(strange):04X}"
    return "a command for a CI's log" if _COMMAND.search(text) else ""


@check(
    "SEC012", "signatures are verified", level="note",
    fix="Verify it with the tool that made it, such as model_signing.",
)  # fmt: skip
def signed(files: Mapping[str, File]) -> Result:
    """A signature says who made the files only once it is verified, which is not done here.

    It covers the files that it lists, and says nothing of the base model.
    """
    for name in _signatures(files):
        yield Found(text=f"{shown(name)} is a signature, and was not verified", file=name)


def _signatures(files: Mapping[str, File]) -> Iterator[str]:
    return (name for name in files if _files.like(name, _files.SIGNATURES))
