"""What a serving target wants of a conversion: format and options, and its checks of the result.

serving.json says both. What a target reads as PEFT's folder is judged by its checks (SRV); other
files are read back by our own reader of their format, where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptertools import plugins
from adaptertools.adapter import Adapter
from adaptertools.dialect import CONFIG
from adaptertools.errors import Unsupported, first, shown
from adaptertools.facts import Profile
from adaptertools.report import Finding
from adaptertools.verbs import _convert_modelfile as modelfile
from adaptertools.verbs._gather_beside import profile
from adaptertools.verbs.open import open_adapter
from adaptertools.verbs.validate import validate

Options = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """Where a conversion goes: the format, its options, and the target; None where any reader."""

    to: str
    options: Options
    profile: Profile | None = None
    source: str = ""  # what a Modelfile is to call the base, as the user said it

    @property
    def beside(self) -> bool:
        """Whether there is to be a Modelfile."""
        return bool(self.profile and self.profile.beside)

    def check(self, draft: Path, adapter: Adapter, files: list[str]) -> dict[str, Any]:
        """Finish a written draft and judge it; give facts, of which `findings` are to be told.

        Raises Unsupported with what the target refuses, and what the format's reader raises.
        """
        if self.profile is None:
            return {}
        said: list[Finding] = []
        if self.beside:
            said += modelfile.write(draft, adapter, files[0], self.source, self.options)
            files.append(modelfile.NAME)
        checked, found = _judged(draft, self.to, files, self.profile)
        target = {"name": self.profile.name, "version": self.profile.version, "checked": checked}
        return {"target": target, "findings": [*said, *found]}


def aim(target: str | None, to: str | None, options: Options) -> Aim:
    """Choose what to write for a target; `to` is one of its formats, the first where it is None.

    Raises NotFound for an unknown target, Unsupported for a format that it does not read.
    """
    found = profile(target, {})
    if found is None:
        return Aim(to=to or "peft", options=options)
    if to is not None and to not in found.formats:
        raise Unsupported(
            f"--to {shown(to)}: {found.name} reads {first(found.formats)}. Leave --to out, or "
            "--target."
        )
    own = {name: value for name, value in options.items() if not found.beside or name != "from"}
    return Aim(
        to=to or found.formats[0], options={**found.options, **own}, profile=found,
        source=options.get("from", "") if found.beside else "",
    )  # fmt: skip


def _judged(
    draft: Path, to: str, files: list[str], target: Profile
) -> tuple[list[str], tuple[Finding, ...]]:
    """Give what was looked at, and what was found that is no reason to refuse."""
    if CONFIG in files and not target.rules.get("own_format"):
        report = validate(draft, target=target.name, select=["SRV"])
        for finding in report.findings:
            if finding.level == "error":
                raise Unsupported(f"{finding.text} {finding.hint}")
        return list(report.facts["checks_run"]), report.findings
    if not hasattr(plugins.load("formats", to), "read"):
        return [], ()
    open_adapter(draft, format=to)
    return [f"read back as {to}"], ()
