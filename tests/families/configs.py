"""Tiny configs, one per model family, as arguments of the family's own config class; no weights.

Sizes differ wherever the architecture lets them, so that no transposed or swapped block has the
right shape by chance.
"""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]

VOCAB = 96
TOKENS: Fields = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
# No head's size is hidden / heads: q is 64 wide, k and v are 32, and the hidden size is 40.
DECODER: Fields = {
    **TOKENS,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
# Families whose head size follows from the hidden size.
EVEN: Fields = {k: v for k, v in DECODER.items() if k != "head_dim"} | {"hidden_size": 64}
ENCODER: Fields = {k: v for k, v in EVEN.items() if k != "num_key_value_heads"}
EXPERTS: Fields = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SHARED: Fields = {"shared_expert_intermediate_size": 28}
LATENT: Fields = {  # DeepSeek's low-rank attention
    **EVEN,
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "q_lora_rank": 20,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 24,
    "head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
SEQ2SEQ: Fields = {
    **TOKENS,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
VISION: Fields = {
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
QWEN_VISION: Fields = {
    "depth": 1,
    "num_heads": 2,
    "in_channels": 3,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
ROPE_3D: Fields = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
TEXT_3D: Fields = {**EVEN, "rope_parameters": ROPE_3D}
IMAGE: Fields = {"image_token_id": 90, "video_token_id": 91}
