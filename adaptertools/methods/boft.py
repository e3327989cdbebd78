"""BOFT: the input turned by butterfly factors B, W' = diag(s) · W · (Π B)ᵀ.  arXiv:2311.06243

After peft/tuners/boft/layer.py: `boft_R` is (n, d, b, b); of each block the Cayley map of
½(R − Rᵀ) is taken. Factor i acts on columns gathered in chunks of b/2: of every 2ⁱ⁺¹ chunks each of
the first half is followed by its counterpart in the second. The factors apply in order.
PEFT without its CUDA extension cannot load files with more than one factor; this does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, shown
from adaptertools.methods._parts import features, part
from adaptertools.methods._table import table
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.turned import Blocks, Turned

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "BOFT"

tensors = {
    "boft_R": "generators of the blocks (factors, blocks, b, b)",
    "boft_s": "factors of the outputs (out, 1), of a convolution (1, out)",
}


def check(config: Mapping[str, Any]) -> None:
    """Accept every config: the tensors say all."""


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    if site.transposed:
        features(site, conv1d=False)
    outputs, inputs = site.shape
    spec = part(site, "boft_R", None, None, None, None)
    count, blocks, side, _ = spec.shape
    if spec.shape[3] != side or side * blocks != inputs or (count > 1 and side % 2) or (
        blocks % 2 ** (count - 1) if count < 64 else True
    ):  # fmt: skip
        raise Mismatch(
            f"{shown(spec.name)} is {list(spec.shape)}, which are no blocks of the {inputs} "
            "inputs. Pass the base that it was trained on as --base."
        )
    wanted = (outputs, 1) if len(site.weight.shape) == 2 else (1, outputs)
    scales = table(part(site, "boft_s", *wanted), outputs, 1)
    return [Turned(Blocks(inputs, Butterfly(spec)), site.scale, scales)]


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []


@dataclass(frozen=True, slots=True)
class Butterfly:
    """The factors of a layer, from the tensor that they are stored as."""

    spec: TensorSpec

    def factors(self) -> list[tuple[Array, Array | None]]:
        """Give each factor's transposed blocks, and the columns in the order they are gathered."""
        import numpy as np

        stored = tensorfile.read(self.spec).astype(np.float64)
        skew, one = (stored - stored.swapaxes(2, 3)) / 2, np.eye(stored.shape[3])
        turned = np.linalg.solve(one - skew, one + skew)  # ((I − Q)(I + Q)⁻¹)ᵀ
        size, half = stored.shape[1] * stored.shape[3], stored.shape[3] // 2
        return [
            (blocks, _gathered(size, 2**i, half) if len(turned) > 1 else None)
            for i, blocks in enumerate(turned)
        ]


def _gathered(size: int, pairs: int, half: int) -> Array:
    import numpy as np

    return np.arange(size).reshape(-1, 2, pairs, half).swapaxes(1, 2).reshape(size)
