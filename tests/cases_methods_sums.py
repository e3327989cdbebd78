"""Methods whose update is a sum that does not depend on the weight, from AdaLoRA to VB-LoRA."""

from tests.cases_methods import method

ADALORA = {"init_r": 6, "target_r": 4, "lora_alpha": 12, "total_step": 10}
KEPT = {f"model.layers.{i}.self_attn.q_proj.lora_E.default": [1, 0, 1, 1, 0, i] for i in (0, 1)}
PRUNED = {**ADALORA, "rank_pattern": {n: [*map(bool, kept)] for n, kept in KEPT.items()}}
VERA = {"r": 6, "projection_prng_key": 5}
UNSAVED = {**VERA, "save_projection": False}
EVERY = ["q_proj", "k_proj", "up_proj", "down_proj"]

RAND = {"r": 4, "randlora_alpha": 8, "projection_prng_key": 5}
LOST = {**RAND, "save_projection": False}

BANK = {"r": 3, "num_vectors": 12, "vector_length": 8, "topk": 3}

LYCORIS = {"r": 4, "alpha": 6}
TUCKER = {**LYCORIS, "use_effective_conv2d": True}
PATTERNS = {**LYCORIS, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"k_proj": 3}}

METHODS = (
    method(
        "ADALORA", linear=ADALORA, conv1d=ADALORA, conv2d=ADALORA,
        **{"biased unscaled": {**ADALORA, "lora_alpha": 0}, "linear pruned": PRUNED},
    ),
    method(
        "VERA", linear=VERA, conv1d=VERA, biased=VERA,
        **{
            "biased all": {**VERA, "bias": "all"},
            "biased only": {**VERA, "bias": "vera_only"},
            "linear head": {**VERA, "modules_to_save": ["lm_head", "norm"]},
            "linear unsaved": {**UNSAVED, "target_modules": EVERY}, "conv1d unsaved": UNSAVED,
        },
    ),
    method(
        "PVERA", linear=VERA, conv1d=VERA, biased=VERA,
        **{"linear unsaved": {**UNSAVED, "target_modules": EVERY}, "conv1d unsaved": UNSAVED},
    ),
    method(
        "RANDLORA", linear={**RAND, "target_modules": EVERY}, conv1d=RAND, biased=RAND,
        **{
            "linear ragged": {**RAND, "target_modules": EVERY, "r": 5},
            "linear sparse": {**LOST, "sparse": True, "target_modules": EVERY, "r": 5},
            "conv1d sparser": {**LOST, "very_sparse": True},
        },
    ),
    method(
        "VBLORA", linear=BANK, conv1d=BANK, biased=BANK,
        **{"linear single": {**BANK, "topk": 1}},
    ),
    method(
        "LOHA", linear=LYCORIS, biased=LYCORIS, conv2d=LYCORIS, line=LYCORIS,
        **{"linear patterns": PATTERNS, "conv2d tucker": TUCKER, "line tucker": TUCKER},
    ),
    method(
        "LOKR", linear=LYCORIS, biased={**LYCORIS, "decompose_both": True, "r": 1},
        conv2d=LYCORIS, line=LYCORIS,
        **{
            "linear patterns": {**PATTERNS, "decompose_factor": 2},
            "linear low": {**LYCORIS, "r": 1, "decompose_both": True},
            "conv2d tucker": {**TUCKER, "r": 1},  # PEFT cannot for a Conv1d: torch.kron fails
            "conv2d low": {**LYCORIS, "r": 1}, "line low": {**LYCORIS, "r": 1},
        },
    ),
    # PEFT takes the logarithm of the saved weights in float32 when it loads them.
    method(
        "VBLORA", tolerance=1e-6, **{"linear smaller": {**BANK, "save_only_topk_weights": True}}
    ),
)  # fmt: skip
