"""Mend a card's front matter where it lies: every line that is right stays as it was typed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.verbs import _gather_beside as beside

if TYPE_CHECKING:
    from yaml import Node

_PLAIN = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}  # that YAML takes for others


class Front:
    """A card's text, its front matter apart; `said` lists what was changed.

    Raises Unreadable where the front matter is no YAML map.
    """

    def __init__(self, text: str) -> None:
        self.end = "\r\n" if "\r\n" in text else "\n"
        mark = "\ufeff" if text.startswith("\ufeff") else ""
        lines = text.removeprefix(mark).splitlines(keepends=True)
        bare = [line.rstrip() for line in lines]
        close = bare.index("---", 1) if bare[:1] == ["---"] and "---" in bare[1:] else 0
        self.head = mark + (lines[0] if close else f"---{self.end}")
        self.yaml = "".join(lines[1:close])
        self.body = "".join(lines[close:]) if close else f"---{self.end}{''.join(lines)}"
        self.said: list[str] = []
        meta, fault = beside.front(self.yaml) if self.yaml.strip() else ({}, "")
        if meta is None:
            raise Unreadable(
                f"README.md: its front matter is no YAML map: {fault}. The Hub would refuse it. "
                "Mend it, or take the file away and let upload write one."
            )
        self.meta = meta  # as it is to become

    def fill(self, key: str, value: str) -> None:
        """Write a key that is missing or empty."""
        if self.meta.get(key) in (None, "", []):
            self._put(key, value, f"{key}: {shown(value)}")

    def replace(self, key: str, value: str) -> None:
        """Write a key, whatever it says."""
        before = self.meta.get(key)
        if before != value:
            self._put(key, value, f"{key}: {shown(before)} -> {shown(value)}")

    def _put(self, key: str, value: str, said: str) -> None:
        node = self._find(key)
        if node is None:
            self._append(f"{key}: {_scalar(value)}")
        else:
            self._set(node, _scalar(value))
        self.meta[key] = value
        self.said.append(said)

    def swap(self, key: str, fits: Callable[[str], bool], value: str) -> None:
        """Write another value for each word of a key that fits, be it one or in a list."""
        node = self._find(key)
        found = [each for each in _scalars(node) if fits(str(each.value))] if node else []
        for each in reversed(found):
            self._splice(each.start_mark.index, _stop(each), _scalar(value))
        if found:
            old = self.meta[key]
            listed = isinstance(old, list)
            self.meta[key] = [value if fits(str(x)) else x for x in old] if listed else value
            self.said.append(f"{key}: {shown(found[0].value)} -> {shown(value)}")

    def extend(self, key: str, words: Iterable[str]) -> None:
        """Add what a list lacks, in the style in which it is written."""
        held = self.meta.get(key)
        have = held if isinstance(held, list) else [held] if held else []
        lower = {str(word).lower() for word in have}
        new = [word for word in words if word.lower() not in lower]
        if not new:
            return
        node = self._find(key)
        if node is None:
            self._append(self.end.join([f"{key}:", *(f"- {_scalar(word)}" for word in new)]))
        elif not isinstance(node.value, list) or not node.value:
            made = ", ".join(_scalar(str(word)) for word in [*have, *new])
            self._set(node, f"[{made}]")
        else:
            self._add(node, new)
        self.meta[key] = [*have, *new]
        self.said.append(f"{key}: {', '.join(map(shown, new))}")

    def _add(self, node: Any, new: list[str]) -> None:
        """Add words to a list that has some already."""
        if node.flow_style:
            at = node.end_mark.index - 1
            comma = " " if self.yaml[:at].rstrip().endswith(",") else ", "
            self._splice(at, at, comma + ", ".join(map(_scalar, new)))
            return
        at = self.yaml.find("\n", _stop(node.value[-1]))
        at = len(self.yaml) if at < 0 else at + 1
        lead = "" if self.yaml[:at].endswith("\n") else self.end
        dash = " " * node.start_mark.column + "- "
        self._splice(at, at, lead + "".join(f"{dash}{_scalar(word)}{self.end}" for word in new))

    def _find(self, key: str) -> Any:
        """Give the node of a key's value; None where it is not there."""
        import yaml

        try:
            node = yaml.compose(self.yaml, Loader=yaml.SafeLoader)
        except yaml.YAMLError:  # an earlier change broke it, which `text` will say
            return None
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        found = [value for name, value in pairs if name.value == key]
        return found[-1] if found else None

    def _set(self, node: Any, text: str) -> None:
        """Write another value in the place of a node, on the line of its key."""
        lead = self.yaml[: node.start_mark.index].rstrip()
        if lead.endswith(":"):
            self._splice(len(lead), _stop(node), f" {text}")
        else:
            self._splice(node.start_mark.index, _stop(node), text)

    def _append(self, lines: str) -> None:
        lead = "" if not self.yaml or self.yaml.endswith("\n") else self.end
        self.yaml += f"{lead}{lines}{self.end}"

    def _splice(self, start: int, stop: int, text: str) -> None:
        self.yaml = self.yaml[:start] + text + self.yaml[stop:]

    def text(self) -> str:
        """Give the whole card; raise Unsupported where mending would have changed anything else."""
        meta, fault = beside.front(self.yaml)
        if repr(meta) != repr(self.meta):  # equal also where a value is NaN
            lines = "; ".join(self.said)
            raise Unsupported(
                f"README.md: its front matter is written in a way that cannot be mended in place "
                f"({fault or 'other keys would change'}). Write there yourself: {lines}."
            )
        return self.head + self.yaml + self.body


def _scalar(word: str) -> str:
    """Write a word as YAML; what is not plain is quoted as JSON, which YAML reads alike."""
    plain = _PLAIN.fullmatch(word) and word.lower() not in _WORDS
    return word if plain else json.dumps(word, ensure_ascii=False)


def _stop(node: Any) -> int:
    """Give where a value ends; YAML lets a list end where the next key begins."""
    if isinstance(node.value, list) and node.value and not node.flow_style:
        last = node.value[-1]
        return _stop(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _scalars(node: Node) -> Iterator[Any]:
    """Give a value that is one word, or the words of a list."""
    for each in node.value if isinstance(node.value, list) else [node]:
        if not isinstance(each, tuple) and isinstance(each.value, str):
            yield each
