"""Write PEFT's folder of an adapter that another format's reader understood, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.adapter import Adapter
from adaptertools.dialect import CONFIG, WEIGHTS
from adaptertools.errors import Unsupported
from adaptertools.formats import EXTRAS, Ask, Wrote
from adaptertools.formats._modules import cast
from adaptertools.formats._peft_write import config_text
from adaptertools.tensorfile import FLOATS

if TYPE_CHECKING:
    from adaptertools.update import Array

HOLDS = frozenset(EXTRAS)
METHODS = frozenset({"IA3", "PREFIX_TUNING"})  # that other formats' readers give, beside LoRA
SUFFIX = ""
LACKS = "nothing that adaptertools reads"
PROVED = "PEFT 0.21.2"


def write(adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
    """Write config and weights as they were read; only a dtype may be asked for.

    Raises Unsupported for a rank, and for a dtype that values overflow.
    """
    from adaptertools.formats._normal import save

    if ask.rank:
        raise Unsupported(
            "--rank is for targets of one rank, and PEFT's format has one for each module. "
            "Use --to plain to pad, or `adaptertools resize`."
        )
    wrote = Wrote(files=[CONFIG, WEIGHTS[0]], tensors=0, nbytes=0)
    wrote.tensors, wrote.nbytes = save(draft / WEIGHTS[0], _tensors(adapter, ask, wrote))
    (draft / CONFIG).write_text(config_text(adapter.config), "utf-8")
    return wrote


def _tensors(adapter: Adapter, ask: Ask, wrote: Wrote) -> Iterator[tuple[str, Array]]:
    for name, spec in adapter.tensors.items():
        values = tensorfile.read(spec)
        if ask.dtype and spec.dtype in FLOATS and spec.dtype != ask.dtype:
            values, error = cast(values, ask.dtype, name)
            wrote.error = max(wrote.error, error)
        yield name, values
