"""Mixtures of experts."""

from __future__ import annotations

from tests.cases_recipe import Tensors

from .configs import DECODER, EVEN, EXPERTS, IMAGE, LATENT, QWEN_VISION, SHARED, TEXT_3D, VISION
from .recipe import Family, Layout

BOTH: tuple[Layout, ...] = ("saved", "converted")
OLDER: tuple[Layout, ...] = ("saved", "older")
FUSED = ("experts.gate_up_proj", "experts.down_proj")
# PEFT's layer for the router cannot run: the router returns a pair (see test_peft.py).
ROUTED = {"exclude_modules": ["router"]}
VISION_4 = {
    **VISION,
    "vision_output_dim": 24,
    "projector_input_dim": 20,
    "projector_output_dim": 24,
}


def turned_experts(tensors: Tensors) -> Tensors:
    """Store the experts (in, out), as Qwen published them."""
    return {n: t.transpose(1, 2) if "experts" in n else t for n, t in tensors.items()}


SPARSE = (
    Family(
        name="mixtral",
        model="MixtralForCausalLM",
        config={**DECODER, "num_local_experts": 3, "num_experts_per_tok": 2},
        layouts=BOTH,
        experts=FUSED,
    ),
    Family(
        name="qwen2_moe",
        model="Qwen2MoeForCausalLM",
        config={**EVEN, **EXPERTS, **SHARED},
        layouts=BOTH,
        experts=FUSED,
    ),
    Family(
        name="qwen3_moe",
        model="Qwen3MoeForCausalLM",
        config={**DECODER, **EXPERTS},
        layouts=BOTH,
        experts=FUSED,
    ),
    Family(
        name="deepseek_v2",
        model="DeepseekV2ForCausalLM",
        config=LATENT,
        layouts=BOTH,
        experts=FUSED,
    ),
    Family(
        name="deepseek_v3",
        model="DeepseekV3ForCausalLM",
        config=LATENT,
        layouts=BOTH,
        experts=FUSED,
    ),
    Family(
        name="gpt_oss",
        model="GptOssForCausalLM",
        config={**DECODER, "num_local_experts": 3, "num_experts_per_tok": 2},
        experts=FUSED,
    ),
    Family(
        name="llama4_text",
        lora=ROUTED,
        model="Llama4ForCausalLM",
        config={
            **DECODER,
            "num_local_experts": 3,
            "intermediate_size_mlp": 48,
            "interleave_moe_layer_step": 2,
        },
        experts=FUSED,
    ),
    Family(
        name="granite_hybrid",  # its time_step_limit is infinite, and JSON has no such number
        model="GraniteMoeHybridForCausalLM",
        config={
            **EVEN,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 28,
            "mamba_n_heads": 8,
            "mamba_d_state": 12,
            "layer_types": ["mamba", "attention"],
        },
        layouts=BOTH,
        experts=FUSED,
    ),
    Family(
        name="qwen3_vl_moe",
        model="Qwen3VLMoeForConditionalGeneration",
        config={
            "text_config": {**DECODER, **EXPERTS, "rope_parameters": TEXT_3D["rope_parameters"]},
            "vision_config": {
                **QWEN_VISION,
                "hidden_size": 32,
                "out_hidden_size": 40,
                "intermediate_size": 44,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            **IMAGE,
        },
        layouts=OLDER,
        older=turned_experts,
        experts=FUSED,
    ),
    Family(
        name="llama4",
        lora=ROUTED,
        model="Llama4ForConditionalGeneration",
        config={
            "text_config": {**DECODER, "num_local_experts": 3, "intermediate_size_mlp": 48},
            "vision_config": {**VISION_4, "intermediate_size": 80},
        },
        experts=FUSED,
    ),
)
