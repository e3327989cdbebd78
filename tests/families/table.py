"""All families."""

from __future__ import annotations

from .seeing import SEEING
from .sparse import SPARSE
from .text import TEXT

FAMILIES = {family.name: family for family in (*TEXT, *SEEING, *SPARSE)}
