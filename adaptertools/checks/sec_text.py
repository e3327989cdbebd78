"""Does a text give something away, or run something when it is rendered?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools import jsontext
from adaptertools.checks import check
from adaptertools.checks._files import like
from adaptertools.errors import shown
from adaptertools.facts import File, Found, Result

_TEXTS = ("*.json", "*.jsonl", "*.md", "*.txt", "*.yaml", "*.yml", "*.toml", "*.cfg", "*.ini",
          "*.log", "*.jinja", "*.sh", "*.py", "*.env", ".env*", "*.csv", "*.pem", "*.key",
          ".netrc", ".git-credentials", "Makefile")  # fmt: skip
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
_SMALL = 1_000_000

_SECRETS = {
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{30,}",
    "a key of OpenAI or Anthropic": r"\bsk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{20,}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_[A-Za-z0-9_]{50,}",
    "a key of Google": r"\bAIza[0-9A-Za-z_-]{35}",
    "a token of Slack": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----",
}
_HOMES = (
    r"(?<![\w/.])/(?:home|Users)/(?!\.)[\w.-]{1,40}/|\b[A-Za-z]:\\{1,2}Users\\{1,2}[\w .-]{1,40}\\"
)
_GIVEAWAY = re.compile("|".join([*(f"({p})" for p in _SECRETS.values()), f"({_HOMES})"]))
_WHAT = [*_SECRETS, "the path of somebody's home"]
# Each match holds one of these, and finding out that there is none takes a tenth of the time.
_MARKS = ("hf_", "sk-", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_",
          "AIza", "xox", "PRIVATE KEY", "/home/", "/Users/", ":\\Users", ":\\\\Users")  # fmt: skip

# What formatting a conversation never needs, wherever it stands: taking tags apart can be fooled.
_REACH = re.compile(
    r"(?P<name>\w*__\w*|\.\s*_\w+|\[\s*['\"]_\w*)|(?P<filter>\|\s*attr\b)"
    r"|\{%[-+]?\s*(?P<statement>import|from|include|extends)\b|(?P<hidden>\\(?:x5f|u005f|137))"
)
_LARGEST = 200_000  # letters of a template that are looked at
_TEMPLATE = "chat_template"


@check(
    "SEC010", "no file gives secrets or homes away",
    fix="Revoke what is secret, then delete it from the files and from their history.", reads=True,
)  # fmt: skip
def giveaways(files: Mapping[str, File]) -> Result:
    """A token in a published file is found within minutes, and stays in the history.

    Paths of homes tell a user's name and where data lay; configs of MLX-LM, which hold all
    arguments of the training, are full of them. Small text files are read, vocabularies are not.
    """
    for name, file in files.items():
        if file.size > _SMALL or not like(name, _TEXTS) or like(name, _VOCABULARIES):
            continue
        text = file.read(_SMALL).decode("utf-8", errors="replace")
        if not any(mark in text for mark in _MARKS):
            continue
        seen = set()
        for match in _GIVEAWAY.finditer(text):
            what = _WHAT[(match.lastindex or 1) - 1]
            if what not in seen and not _made_up(match[0], what):
                seen.add(what)
                line = text.count("\n", 0, match.start()) + 1
                column = match.start() - text.rfind("\n", 0, match.start())
                words = f"{shown(name)} holds {what}: {_part(match[0], what)}"
                yield Found(text=words, file=name, line=line, column=column)


def _made_up(found: str, what: str) -> bool:
    """Tell whether a token is a placeholder: hf_xxxxxxxxx."""
    token = what.startswith(("a token", "a key"))
    return token and (len(set(found)) < 10 or not any(char.isdigit() for char in found))


def _part(found: str, what: str) -> str:
    """Show a path, and of a secret only how it begins: reports are read by others."""
    return shown(found) if what == _WHAT[-1] else f"{shown(found[:8])}…"


@check(
    "SEC009", "chat templates only format text", level="warning",
    fix="Take the base's template, or leave it to the base.", reads=True,
)  # fmt: skip
def templates(files: Mapping[str, File]) -> Result:
    """A chat template is a program of Jinja, and servers have run what it reached for.

    Names that begin with an underscore, the `attr` filter, `import` and `include` lead out of the
    sandbox (CVE-2024-34359, CVE-2026-5760). Formatting a conversation needs none of them. The text
    is searched, not rendered; a name that it puts together as it runs is not seen.
    """
    for name, pointer, template in _templates(files):
        if len(template) > _LARGEST:
            yield Found(text=f"{shown(name)}: the chat template is too long to look at", file=name)
        elif why := _reaches(template):
            words = f"{shown(name)}: the chat template {why}"
            yield Found(text=words, file=name, pointer=pointer)


def _templates(files: Mapping[str, File]) -> Iterator[tuple[str, str, str]]:
    """Give the templates: file, place in it, text."""
    for name, file in files.items():
        if name.endswith(".jinja"):
            yield name, "", file.read().decode("utf-8", errors="replace")
        elif name in ("tokenizer_config.json", "processor_config.json", f"{_TEMPLATE}.json"):
            value = jsontext.read(file.read()).value
            held = value.get(_TEMPLATE) if isinstance(value, dict) else None
            yield from ((name, f"/{_TEMPLATE}", text) for text in _texts(held))


def _texts(value: Any) -> Iterator[str]:
    """Give the templates of a value: one, or a list with names."""
    if isinstance(value, str):
        yield value
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict) and isinstance(text := item.get("template"), str):
            yield text


def _reaches(template: str) -> str:
    """Say what a template reaches for; empty where it only formats."""
    match = _REACH.search(template)
    if match is None:
        return ""
    if statement := match["statement"]:
        return f"uses {statement}"
    if match["filter"]:
        return "uses the attr filter"
    return f"hides an underscore as {match[0]}" if match["hidden"] else f"names {shown(match[0])}"
