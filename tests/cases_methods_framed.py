"""Methods that work in a factorisation of the base, and those with one vector for the model.

PEFT factorises in float32, so what it merges is exact to that only.
"""

from dataclasses import replace

import torch

from tests.cases_methods import MethodCase, method


def single(cases: tuple[MethodCase, ...]) -> tuple[MethodCase, ...]:
    """Let PEFT load in float32, where it refuses float64."""
    return tuple(replace(case, load_dtype=torch.float32) for case in cases)


def gently(name: str, value: torch.Tensor, noise: torch.Tensor) -> torch.Tensor | None:
    """Keep singular values what they are, about."""
    return value * (1 + 0.2 * noise) if "lambda_l" in name or "S_low" in name else None


METHODS = (
    single(
        method(
            "PSOFT",
            tolerance=2e-6,
            linear={"r": 4},
            **{
                "linear pissa": {"r": 4, "ab_svd_init": "pissa_init"},
                "linear free": {"r": 4, "psoft_orth": False, "psoft_mag_a": False},
                "linear series": {"r": 5, "use_cayley_neumann": True, "psoft_mag_b": False},
                "linear series of 2": {
                    "r": 5,
                    "use_cayley_neumann": True,
                    "num_cayley_neumann_terms": 2,
                },
                "linear series of 3, held": {
                    "r": 5,
                    "use_cayley_neumann": True,
                    "num_cayley_neumann_terms": 3,
                    "cayley_neumann_eps": 0.3,
                },
                "linear random": {"r": 4, "psoft_svd": "lowrank", "random_seed": 6},
            },
            biased={"r": 3, "psoft_alpha": 5},
        )
    ),
    method(
        "OSF",
        tolerance=1e-5,
        values=gently,
        linear={},
        **{"linear rank": {"effective_rank": 9, "rank_pattern": {"down_proj": 0.25}}},
        biased={"effective_rank": 4},
    ),
    method(
        "TINYLORA",
        tolerance=2e-6,
        linear={"r": 2, "u": 5},
        **{
            "linear tied": {"r": 2, "u": 5, "weight_tying": 0.6},
            "linear one": {"r": 2, "u": 5, "weight_tying": 1.0},
            "linear seeded": {"r": 3, "u": 9, "save_projection": False},
            "linear few seeded": {"r": 1, "u": 7, "save_projection": False, "weight_tying": 0.5},
        },
        biased={"r": 3, "u": 8},
        conv1d={"r": 3, "u": 8, "weight_tying": 0.3},
        embedding={"r": 3, "u": 8},
    ),
    method(
        "FROD",
        tolerance=2e-5,
        values=gently,
        linear={"sparse_rate": 0.1, "progressbar": False},
        biased={"progressbar": False},
        conv1d={"sparse_rate": 0.05, "progressbar": False},
    ),
    method(
        "UNILORA",
        linear={"save_indices": True, "theta_d_length": 40},
        biased={"save_indices": True, "r": 3},
        conv1d={"save_indices": True},
    ),
    method(
        "UNILORA",
        tolerance=1e-6,
        **{
            "linear dealt": {"theta_d_length": 37, "proj_seed": 5},
            "biased dealt": {"theta_d_length": 9999, "target_modules": r".*\.(q_proj|fc\d)"},
            "conv1d dealt": {"theta_d_length": 50},
        },
    ),
)
