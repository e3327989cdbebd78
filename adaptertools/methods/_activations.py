"""Activations by the names that transformers/activations.py gives them, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptertools.update import Array


def _relu(x: Array) -> Array:
    return x.clip(min=0)


def _sigmoid(x: Array) -> Array:
    import numpy as np

    positive: Array = 1 / (1 + np.exp(-np.abs(x)))
    return np.where(x >= 0, positive, 1 - positive)


def _tanh(x: Array) -> Array:
    import numpy as np

    found: Array = np.tanh(x)
    return found


def _gelu(x: Array) -> Array:
    import math

    import numpy as np

    errors: Array = np.array([math.erf(value) for value in (x / 2**0.5).ravel()]).reshape(x.shape)
    found: Array = x * 0.5 * (1 + errors)
    return found


def _gelu_tanh(x: Array) -> Array:
    import numpy as np

    inner: Array = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))
    found: Array = 0.5 * x * (1 + inner)
    return found


def _mish(x: Array) -> Array:
    import numpy as np

    found: Array = x * np.tanh(np.logaddexp(0, x))
    return found


def _leaky(x: Array) -> Array:
    import numpy as np

    found: Array = np.where(x >= 0, x, 0.01 * x)
    return found


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": _relu,
    "relu2": lambda x: _relu(x) ** 2,
    "relu6": lambda x: x.clip(0, 6),
    "leaky_relu": _leaky,
    "linear": lambda x: x,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "swish": _silu,
    "mish": _mish,
    "tanh": _tanh,
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_python_tanh": _gelu_tanh,
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
}
