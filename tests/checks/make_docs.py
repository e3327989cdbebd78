"""Write CHECKS.md from the catalogue: `python -m tests.checks.make_docs`."""

from pathlib import Path

from adaptertools.checks import Check, catalogue

FILE = Path(__file__).parents[2] / "CHECKS.md"
FAMILIES = {
    "CFG": "The config",
    "FIL": "The files",
    "WGT": "The weights",
    "BAS": "The base model",
    "TOK": "The tokenizer",
    "CRD": "The model card",
    "SEC": "Security",
    "SRV": "Serving",
}
# What a check needs beside config and weights, and how to give it.
NEEDS = {
    "base": "`--base`",
    "data": "`--deep`",
    "online": "`--online`",
    "peft_version": "`--peft-version`",
    "target": "`--target`",
    "card": "a README.md",
    "tokenizer": "tokenizer files",
    "scan": "a repository on the Hub",
}
HEAD = """# Checks

What `adaptertools validate` looks for. A check whose facts are not there is skipped, and listed as
skipped (`-v`). `--select` and `--ignore` take codes and families, `--severity CODE=level` changes
how bad a finding is; `[tool.adaptertools]` in `pyproject.toml` holds the same for good. Written by
`python -m tests.checks.make_docs` from `adaptertools/checks/`; change it there.
"""


def document() -> str:
    """Give the whole of CHECKS.md."""
    every = list(catalogue().values())
    parts = [HEAD, "| code | level | what should be so | needs |\n| --- | --- | --- | --- |\n"]
    parts[1] += "".join(map(row, every))
    for family, title in FAMILIES.items():
        held = [check for check in every if check.code.startswith(family)]
        parts += [f"## {title}\n"] * bool(held) + [section(check) for check in held]
    return "\n".join(parts)


def row(check: Check) -> str:
    """Give its line in the table."""
    title = check.title.replace("|", r"\|")
    return f"| [{check.code}](#{check.code.lower()}) | {check.level} | {title} | {needs(check)} |\n"


def section(check: Check) -> str:
    """Give what is said of one check; its heading is where `Check.link` points."""
    head = f"### {check.code}\n\n**{check.title}** ({check.level}"
    more = f"; needs {said}" if (said := needs(check)) else ""
    return f"{head}{more})\n\n{check.explanation}\n\nFix: {check.fix}\n"


def needs(check: Check) -> str:
    """Say what has to be given for it to run."""
    return ", ".join(NEEDS[need] for need in check.needs if need in NEEDS)


if __name__ == "__main__":
    FILE.write_text(document(), "utf-8", newline="\n")
