"""Methods that multiply the weight, or look at it, and those that replace parts of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from unittest.mock import patch

import torch
from peft import PeftModel
from peft.tuners.boft import layer as boft

from tests.cases_methods import MethodCase, method


@contextmanager
def butterflies() -> Iterator[None]:
    """Stand in for the CUDA kernel without which PEFT has one butterfly factor only."""
    stack = lambda blocks: torch.stack([torch.block_diag(*each) for each in blocks])  # noqa: E731
    with (
        patch.object(boft, "get_fbd_cuda", lambda: True),
        patch.object(boft.FastBlockDiag, "apply", stack),
    ):
        yield


@dataclass(frozen=True)
class ButterflyCase(MethodCase):
    """A case of BOFT with several factors."""

    def build(self, folder: Path, dtype: torch.dtype) -> None:
        with butterflies():
            super().build(folder, dtype)

    def load_peft(self, folder: Path) -> PeftModel:
        with butterflies():
            model = super().load_peft(folder)
        merge = model.merge_and_unload

        def merged() -> torch.nn.Module:
            with butterflies():
                return merge()

        model.merge_and_unload = merged
        return model


def twice(cases: tuple[MethodCase, ...]) -> tuple[MethodCase, ...]:
    """Let two adapters of the method change the same modules."""
    return tuple(replace(c, name=f"{c.name}, two adapters", loras=2 * c.loras) for c in cases)


def several(cases: tuple[MethodCase, ...]) -> tuple[ButterflyCase, ...]:
    """Make them cases of several factors."""
    return tuple(ButterflyCase(**{f.name: getattr(c, f.name) for f in fields(c)}) for c in cases)


OFT = {"oft_block_size": 8}
EXACT = {**OFT, "use_cayley_neumann": False}
ROAD = {"group_size": 16, "init_weights": False}
NORMS = ["input_layernorm", "norm"]
GLORA = {"r": 3}
DEFT = {"r": 4, "init_weights": False}
PEANUT = {"r": 4, "init_weights": False, "scaling": 0.7}

METHODS = (
    method(
        "IA3",
        linear={"feedforward_modules": ["down_proj"]},
        biased={"feedforward_modules": ["fc2"]},
        conv1d={"feedforward_modules": ["c_proj", "c_fc"]},
        conv2d={"feedforward_modules": ["plane"]},
        conv3d={"feedforward_modules": []},
        **{
            "conv3d fed": {"feedforward_modules": "sp.ce"},
            "biased regex": {"feedforward_modules": r".*\.(fc1|q_proj)"},
        },
    ),
    method("BEFT", biased={}),
    method(
        "OFT",
        linear=OFT,
        biased=EXACT,
        embedding=OFT,
        conv2d={"oft_block_size": 4},
        **{
            "linear shared": {**EXACT, "block_share": True},
            "linear constrained": {**EXACT, "coft": True, "eps": 0.1},
            "linear constrained series": {**OFT, "coft": True, "eps": 2.0, "block_share": True},
            "linear r": {"r": 4, "oft_block_size": 0, "num_cayley_neumann_terms": 7},
            "embedding exact": EXACT,
            **{f"linear {n} terms": {**OFT, "num_cayley_neumann_terms": n} for n in (2, 3, 4)},
        },
    ),
    method(
        "BOFT",
        linear={"boft_block_size": 4},
        biased={"boft_block_num": 2, "boft_block_size": 0},
        conv2d={"boft_block_size": 4},
    ),
    several(
        method(
            "BOFT",
            **{
                "linear two factors": {"boft_block_size": 4, "boft_n_butterfly_factor": 2},
                "linear three factors": {"boft_block_size": 4, "boft_n_butterfly_factor": 3},
                "conv2d three factors": {"boft_block_size": 2, "boft_n_butterfly_factor": 3},
            },
        )
    ),
    method(
        "HRA",
        linear={"r": 4},
        biased={"r": 5, "apply_GS": True},
        conv2d={"r": 4},
        **{"conv2d orthogonal": {"r": 3, "apply_GS": True, "init_weights": False}},
    ),
    method(
        "ROAD",
        linear=ROAD,
        biased={**ROAD, "variant": "road_2"},
        **{
            "linear four": {**ROAD, "variant": "road_4", "group_size": 8},
            "biased four": {**ROAD, "variant": "road_4", "group_size": 2},
            "biased one": ROAD,
        },
    ),
    method(
        "LN_TUNING",
        norm={},
        **{"linear": {"target_modules": NORMS}, "biased layer": {"target_modules": ["fc1"]}},
    ),
    method("TRAINABLE_TOKENS", embedding={"token_indices": [3, 95, 7], "init_weights": False}),
    method(
        "HIRA",
        linear={"r": 4}, conv1d={"r": 4}, embedding={"r": 4},
        conv2d={"r": 4}, line={"r": 2}, conv3d={"r": 3},
    ),
    method(
        "GLORA",
        linear=GLORA,
        biased=GLORA,
        **{
            "linear vector": {**GLORA, "config_A_B": "vector"},
            "linear constant": {**GLORA, "config_A_B": "constant"},
            "biased vector": {**GLORA, "config_C": "vector", "config_D_E": "vector"},
            "biased half": {**GLORA, "config_A_B": "none", "config_C": "none"},
            "biased weight alone": {**GLORA, "config_C": "none", "config_D_E": "none"},
        },
    ),
    method(
        "DEFT", tolerance=1e-6,  # PEFT's products are float32 here, whatever the weight is
        linear=DEFT,
        conv1d={**DEFT, "alpha": 6},
        **{
            "linear qr": {**DEFT, "decomposition_method": "qr", "alpha": 6, "r": 20},
            "conv1d qr": {**DEFT, "decomposition_method": "qr"},
            "linear removed": {**DEFT, "para": True},
            "conv1d removed": {**DEFT, "para": True, "decomposition_method": "qr"},
        },
    ),
    method(
        "PEANUT",
        linear=PEANUT,
        biased={**PEANUT, "depth": 2},
        **{
            f"linear {act}": {**PEANUT, "depth": 1, "act_fn": act}
            for act in ("gelu", "gelu_new", "silu", "tanh", "sigmoid", "mish", "leaky_relu",
                        "quick_gelu", "relu6", "relu2", "linear")
        },
    ),
    twice(method("IA3", biased={"feedforward_modules": ["fc2"]})),
    twice(method("OFT", linear=OFT)),
    twice(method("BOFT", linear={"boft_block_size": 4})),
    twice(method("HRA", linear={"r": 4})),
    twice(method("ROAD", biased=ROAD)),
    twice(method("BEFT", biased={})),
    twice(method("HIRA", linear={"r": 4})),
    twice(method("GLORA", biased={**GLORA, "config_D_E": "vector"})),
    twice(method("DEFT", linear=DEFT, tolerance=1e-6)),
    twice(method("PEANUT", linear=PEANUT)),
)  # fmt: skip
