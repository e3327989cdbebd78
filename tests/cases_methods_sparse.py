"""Methods that say much with few numbers: shards, circulants, entries, spectra, blocks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import PeftModel
from peft.tuners.c3a import layer as c3a

from tests.cases_methods import MethodCase, method


@contextmanager
def wide() -> Iterator[None]:
    """Let PEFT work in float64 where it insists on float32: Fourier transforms."""
    circulant, before = c3a.get_circulant_fast, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            patch.object(torch.Tensor, "float", torch.Tensor.double),
            patch.object(c3a, "get_circulant_fast", lambda kernel: circulant(kernel.double())),
        ):
            yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class WideCase(MethodCase):
    """A case whose merge by PEFT runs in float64 throughout."""

    def load_peft(self, folder: Path) -> PeftModel:
        model = super().load_peft(folder)
        merge = model.merge_and_unload

        def merged(*args: Any, **options: Any) -> Any:
            with wide():
                return merge(*args, **options)

        model.merge_and_unload = merged
        return model


def widened(cases: tuple[MethodCase, ...]) -> tuple[WideCase, ...]:
    return tuple(WideCase(**{f.name: getattr(c, f.name) for f in fields(c)}) for c in cases)


METHODS = (
    method(
        "MISS",
        linear={"r": 8},
        **{
            "linear ragged": {"r": 5},
            "linear bat": {"r": 8, "init_weights": "bat"},
            "linear mini": {"r": 4, "mini_r": 8, "init_weights": "mini"},
            "linear mini, ragged": {"r": 7, "mini_r": 2, "init_weights": "mini"},
        },
        biased={"r": 4},
    ),
    widened(
        method(
            "C3A",
            linear={"block_size": 8},
            **{"linear pattern": {"block_size": 16, "block_size_pattern": {"down_proj": 4}}},
            biased={"block_size": 16},
        )
    ),
    method("SHIRA", linear={"r": 2, "random_seed": 3}, biased={"r": 1}),
    method("DELORA", linear={"r": 4}, biased={"r": 3, "delora_lambda": 5}),
    method(
        "GRALORA",
        linear={"r": 8, "gralora_k": 2},
        **{"linear hybrid": {"r": 8, "gralora_k": 4, "hybrid_r": 3, "alpha": 5}},
        biased={"r": 4, "gralora_k": 4},
        conv1d={"r": 6, "gralora_k": 2, "hybrid_r": 2},
    ),
    method(
        "SUPERTUNING",
        linear={"sparsity": 0.9},
        **{
            "linear supra": {"sparsity": 0.8, "r": 3, "lora_alpha": 7.0},
            "linear smallest": {"sparsity": 0.95, "select_top": False},
        },
        biased={"sparsity": 0.5},
    ),
    widened(
        method(
            "FOURIERFT",
            linear={"n_frequency": 40},
            **{
                "linear dense": {"n_frequency": 500, "random_loc_seed": 5, "scaling": 20.0},
                "linear pattern": {"n_frequency": 9, "n_frequency_pattern": {"down_proj": 30}},
            },
            biased={"n_frequency": 40},
            conv1d={"n_frequency": 60},
        )
    ),
    method(
        "WAVEFT",
        linear={"n_frequency": 60},
        **{
            "linear plain": {"n_frequency": 60, "use_idwt": False},
            "linear proportional": {"n_frequency": 60, "proportional_parameters": True},
            "linear db4": {"n_frequency": 200, "wavelet_family": "db4", "random_loc_seed": 8},
            "linear sym5": {"n_frequency": 200, "wavelet_family": "sym5"},
            "linear coif2": {"n_frequency": 100, "wavelet_family": "coif2"},
            "conv1d plain": {"n_frequency": 60, "use_idwt": False},
        },
        biased={"n_frequency": 40, "wavelet_family": "db2"},
        conv1d={"n_frequency": 60, "wavelet_family": "db3"},
    ),
)
