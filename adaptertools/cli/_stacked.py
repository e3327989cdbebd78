"""A stack or a resized adapter in words: sources, what is kept, and the modules that lose most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adaptertools.cli._show import findings, size
from adaptertools.errors import shown
from adaptertools.report import Report

_MOST = 12  # modules of a table that only shows the worst


def lines(report: Report, every: bool = False) -> list[str]:
    """Write the report; `every` gives a line to each module, not only to those that lose most."""
    facts = report.facts
    modules = [m for m in facts["modules"] if m["rank"]]
    written = "would be" if facts["dry_run"] else size(facts["bytes"])
    options = facts["options"]
    how = f"as {options['how']} has it" if options["emulate"] else options["how"]
    text = [
        f"{shown(report.subject)}: {written} {len(modules)} modules, rank {facts['rank']} at most "
        f"({how}, --rank {options['rank']})"
    ]
    width = max(len(shown(each["ref"])) for each in facts["adapters"])
    text += [
        f"  {shown(each['ref']).ljust(width)}  × {each['weight']:<6g} rank {each['rank']:<4} "
        f"norm {each['norm']:<9.4g} survives {each['survival']:.2%}"
        for each in facts["adapters"]
    ]
    text.append(
        f"  energy kept {facts['energy']:.4%}; stored as {facts['dtype']}, off by "
        f"{facts['rounding']:.1e} of it"
    )
    if (cosine := facts["likeness"]) is not None:
        text.append(f"  cosine with the plain sum {cosine:.4f}")
    if checked := facts.get("verified"):
        text.append(f"  verified {checked['modules']} modules: decompositions hold to "
                    f"{checked['residual']:.0e}, what was written is off by "
                    f"{checked['difference']:.1e}")  # fmt: skip
    text += table(facts["modules"], every)
    return text + findings(report.findings)


def table(modules: Sequence[Mapping[str, Any]], every: bool) -> list[str]:
    """Give a line per module: its rank, what it would need, its error, and who survives least."""
    shown_ = list(modules) if every else [m for m in modules if m["energy"] < 1 - 1e-12]
    if not shown_:
        return []
    worst = sorted(shown_, key=lambda m: (m["energy"], m["target"]))
    rows = [("module", "rank", "needs", "error", "energy", "least survival")]
    for m in shown_ if every else worst[:_MOST]:
        error = max(1 - m["energy"], 0.0) ** 0.5
        rows.append((
            shown(m["target"], 80), str(m["rank"]), str(m["needed"]), f"{error:.3%}",
            f"{m['energy']:.3%}", f"{min(m['survival'].values(), default=1.0):.2%}",
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    said = [
        "  " + "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]  # fmt: skip
    more = 0 if every else len(worst) - _MOST
    return said + ([f"  … and {more} more that lose less"] if more > 0 else [])
