"""Where each value of a valid JSON text begins: one pass, no recursion, some bytes per value."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator

MAX_POINTER = 1000  # a name of a million letters is not repeated in every finding

_READ = json.JSONDecoder().raw_decode
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}:,]|[^\s\[\]{}:,"]++', re.S)


class Places:
    """The values of a text in its order; node 0 is the whole, each is followed by its parts."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.value = array("I", [0])  # offset of the value
        self.key = array("I", [0])  # offset of a member's name; of the value for all others
        self.parent = array("I", [0])
        self.order = array("I", [0])  # which part of its parent
        self.size = array("I", [1])  # nodes in the subtree
        self._parts: dict[int, dict[str, int]] = {}  # by name, of the nodes that were asked about
        if text:
            self._read()

    def _read(self) -> None:
        above: list[int] = []
        counts: list[int] = []
        name = -1  # where the name of the next member begins
        for token in _TOKEN.finditer(self.text):
            at, sign = token.start(), self.text[token.start()]
            if sign in "}]":
                node = above.pop()
                counts.pop()
                self.size[node] = len(self.value) - node
            elif sign == '"' and name < 0 and above and self.text[self.value[above[-1]]] == "{":
                name = at
            elif sign not in ":,":
                node = self._add(at, at if name < 0 else name, above, counts)
                name = -1
                if sign in "{[":
                    above.append(node)
                    counts.append(0)

    def _add(self, at: int, name: int, above: list[int], counts: list[int]) -> int:
        if not above:
            self.value[0] = self.key[0] = at
            return 0
        columns = (self.value, self.key, self.parent, self.order, self.size)
        for column, number in zip(columns, (at, name, above[-1], counts[-1], 1), strict=True):
            column.append(number)
        counts[-1] += 1
        return len(self.value) - 1

    def children(self, node: int) -> Iterator[int]:
        """Give the members or elements of a node."""
        child, end = node + 1, node + self.size[node]
        while child < end:
            yield child
            child += self.size[child]

    def name(self, node: int) -> str:
        """Give the name of a member, or the index of an element."""
        if self.key[node] == self.value[node]:
            return str(self.order[node])
        return str(_READ(self.text, self.key[node])[0])

    def find(self, pointer: str) -> int:
        """Give the node at a pointer, or its nearest parent; of duplicates the last, as json."""
        node = 0
        for part in pointer.split("/")[1:]:
            if node not in self._parts:
                self._parts[node] = {self.name(child): child for child in self.children(node)}
            found = self._parts[node].get(part.replace("~1", "/").replace("~0", "~"))
            if found is None:
                break
            node = found
        return node

    def pointer(self, node: int) -> str:
        """Give the pointer to a node; to its nearest parent where it is very long."""
        parts: list[str] = []
        while node:
            if self.value[node] - self.key[node] > MAX_POINTER:
                parts = []
            else:
                parts.append(self.name(node).replace("~", "~0").replace("/", "~1"))
            node = self.parent[node]
        whole = "".join(f"/{part}" for part in reversed(parts))
        while len(whole) > MAX_POINTER:
            whole = whole.rpartition("/")[0]
        return whole
