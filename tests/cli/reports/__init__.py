"""Reports made by hand, with a catalogue of three checks and names that mean harm."""

from collections.abc import Iterator
from pathlib import Path

from adaptertools.checks import Check
from adaptertools.facts import Found
from adaptertools.report import Finding, Level, Report

# Each would do something where it is taken for more than a name.
HOSTILE = (
    "a\n::set-env name=PATH::/evil",
    "\r\n::error::forged",
    "::stop-commands::x",
    "##[error]forged",
    "\x1b[2J\x1b]0;title\x07",
    "\u2028\u2029\u202egnp.exe\ufeff",
    "\ud800\udfff\ufffe\x00\x08\x0b",
    "%0A::error::forged%",
    "]]><evil attr='1'/>&lt;&evil;",
    "{0}{{1}} {",
    "[click](javascript:alert(1)) <img src=x onerror=1> | `x` |",
    "a,b=c:d;e",
    "-->",
)


def nothing() -> Iterator[Found]:
    """Both halves are needed.

    The run was probably killed.
    """
    yield from ()


def check(code: str, level: Level) -> Check:
    return Check(
        code=code, title=f"what {code} wants", level=level, explanation=nothing.__doc__ or "",
        fix="Save it again.", needs=("config",), run=nothing,
    )  # fmt: skip


CATALOGUE = {
    code: check(code, level)
    for code, level in (("CFG001", "error"), ("SEC001", "warning"), ("WGT001", "note"))
}


def found(
    code: str = "CFG001", level: Level = "error", text: str = "It is 0.", **where: object
) -> Finding:
    """Give a finding, in line 3 of the config unless told otherwise."""
    place: dict[str, object] = {"file": "adapter_config.json", "line": 3, "column": 8}
    place |= {"hint": "Save it again.", "pointer": "/r", **where}
    return Finding(code=code, level=level, place="/r", text=text, **place)  # type: ignore[arg-type]


def report(folder: Path, *findings: Finding, skipped: tuple[str, ...] = ()) -> Report:
    """Give a report on a folder that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"dialect": "peft", "checks_run": ["CFG001", "SEC001"], "summary": {}}
    return Report(
        verb="validate", subject=str(folder), findings=findings, skipped=skipped, facts=facts
    )


def hostile(folder: Path) -> Report:
    """Give a report with every hostile name in every place where a stranger's name can be."""
    every = [
        found(text=f"{name} is odd", hint=f"see {name}", file=name.replace("\0", ""), pointer=name)
        for name in HOSTILE
    ]
    every += [found("WGT001", "note", text=name, tensor=name, file="", line=0) for name in HOSTILE]
    return report(folder, *every, skipped=tuple(f"SEC001: {name}" for name in HOSTILE))
