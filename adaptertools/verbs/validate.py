"""validate: everything that is wrong with an adapter, and what was not looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from adaptertools import hub
from adaptertools.checks import Check, catalogue
from adaptertools.errors import Unsupported, first, shown
from adaptertools.facts import Facts, Found
from adaptertools.report import Finding, Level, Report
from adaptertools.verbs._gather import CONFIG, gather

LEVELS: tuple[Level, ...] = get_args(Level)  # error, warning, note
MOST = 200  # findings of one check; the rest is counted


def validate(
    thing: str | Path, *, base: str | Path | None = None, deep: bool = False,
    target: str | None = None, peft_version: str | None = None, strict: bool = False,
    select: Sequence[str] = (), ignore: Sequence[str] = (),
    severity: Mapping[str, str] | None = None, online: Callable[[str], str] | None = None,
    revision: str | None = None, token: str | None = None,
) -> Report:  # fmt: skip
    """Validate an adapter's folder and give a report; what was not checked is listed as skipped.

    Args:
        thing: folder or Hub reference. Of a repository only config, card and what lists the tensors
            is fetched, unless `deep`.
        base: the base model, to hold shapes and vocabulary against.
        deep: read tensor data too: NaN, untrained, exploding.
        target: a serving target, such as "vllm"; `adaptertools.serving.known()` lists them.
        peft_version: the PEFT that must be able to read it.
        strict: unknown keys and other warnings about the config are errors.
        select, ignore: codes or families (WGT014, SEC) to run, or to leave out.
        severity: code -> error, warning or note, instead of the check's own.
        online: asks the network about a repository; nothing is asked where it is None.
        revision: branch, tag, commit, or refs/pr/N; another way to say user/repo@revision.
        token: instead of the one that `hf auth login` stored.

    Raises NotFound where there is no such folder, base or target, HubError where the Hub fails,
    Unsupported for unknown codes.
    """
    chosen = _chosen(select, ignore)
    levels = _levels(severity or {})
    with hub.signed(token):
        facts = gather(
            thing, base=base, deep=deep, target=target, peft_version=peft_version, online=online,
            revision=revision,
        )  # fmt: skip
        return judge(facts, chosen, levels, strict=strict)


def judge(
    facts: Facts, checks: Sequence[Check], levels: Mapping[str, Level], *, strict: bool = False
) -> Report:
    """Run checks on what is known."""
    findings: list[Finding] = []
    skipped: list[str] = []
    run: list[str] = []
    for check in checks:
        if reason := check.missing(facts):
            skipped.append(f"{check.code}: {reason}")
            continue
        run.append(check.code)
        if check.reads and facts.remote and facts.remote.unread:
            skipped.append(f"{check.code}: {first(facts.remote.unread)} not fetched (pass --deep)")
        findings += _judged(check, facts, levels, strict=strict)
    findings.sort(key=lambda f: (LEVELS.index(f.level), f.code, f.file, f.line))
    counts = Counter(finding.level for finding in findings)
    return Report(
        verb="validate", subject=facts.ref, findings=tuple(findings), skipped=tuple(skipped),
        facts={"dialect": facts.dialect, "checks_run": run,
               "summary": {level: counts[level] for level in LEVELS},
               **({"remote": asdict(facts.remote)} if facts.remote else {})},
    )  # fmt: skip


def _chosen(select: Sequence[str], ignore: Sequence[str]) -> list[Check]:
    every = catalogue()
    families = {code[:3] for code in every}
    if odd := [c for c in (*select, *ignore) if c not in every and c not in families]:
        raise Unsupported(
            f"{first(odd)}: no such check. Known families: {', '.join(sorted(families))}."
        )
    wanted = [c for c in every.values() if not select or {c.code, c.code[:3]} & set(select)]
    return [c for c in wanted if not {c.code, c.code[:3]} & set(ignore)]


def _levels(severity: Mapping[str, str]) -> dict[str, Level]:
    found: dict[str, Level] = {}
    for code, said in severity.items():
        level = next((level for level in LEVELS if level == said), None)
        if code not in catalogue() or level is None:
            raise Unsupported(
                f"--severity {shown(code)}={shown(said)}: a check's code and one of "
                f"{', '.join(LEVELS)} were expected."
            )
        found[code] = level
    return found


def _judged(
    check: Check, facts: Facts, levels: Mapping[str, Level], *, strict: bool
) -> list[Finding]:
    found = []
    for i, each in enumerate(check.look(facts)):
        if i == MOST:
            text = f"There are more than {MOST} of these; the rest is not listed."
            each = Found(text=text, file=each.file)
        found.append(_finding(check, each, facts, levels.get(check.code), strict=strict))
        if i == MOST:
            break
    return found


def _finding(
    check: Check, found: Found, facts: Facts, forced: Level | None, *, strict: bool
) -> Finding:
    own = next((level for level in LEVELS if level == found.level), check.level)
    if strict and own == "warning" and check.code.startswith("CFG"):
        own = "error"
    file = found.file or (CONFIG if found.pointer else "")
    line, column = found.line, found.column
    if not line and file == CONFIG and facts.text is not None:
        line, column = facts.text.at(found.pointer)
    place = found.tensor or found.pointer or file
    return Finding(
        code=check.code, level=forced or own, place=shown(place), text=found.text,
        hint=found.hint or check.fix, file=file, line=line, column=column,
        pointer=found.pointer, tensor=found.tensor,
    )  # fmt: skip
