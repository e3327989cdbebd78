"""RoAd's angles and lengths as factors of each output and of its partner."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptertools.update import Array


def pairs(theta: Array, alpha: Array, variant: str, group: int) -> Array:
    """Give (outputs, 2): what the output itself counts, and its partner.

    Vectors and groups of outputs are as in peft/tuners/road/layer.py.
    """
    import numpy as np

    if variant == "road_1":
        theta, alpha = (
            np.repeat(v.reshape(-1, 1, group // 2), 2, axis=1).reshape(-1) for v in (theta, alpha)
        )
    if variant == "road_4":
        theta, alpha = (v.reshape(-1, 2, group) for v in (theta, alpha))
        own = (alpha[:, 0] * np.cos(theta[:, 0])).reshape(-1)
        other = (alpha[:, 1] * np.sin(theta[:, 1])).reshape(-1)
    else:
        own, other = alpha * np.cos(theta), alpha * np.sin(theta)
    other = other.reshape(-1, 2, group // 2) * np.array([-1.0, 1.0])[:, None]
    return np.stack([own, other.reshape(-1)], axis=1)
