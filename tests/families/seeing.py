"""Models of images and sounds, with and without language; those with experts are in `sparse`."""

from __future__ import annotations

import re

from tests.cases_recipe import Tensors

from .configs import DECODER, ENCODER, IMAGE, QWEN_VISION, SEQ2SEQ, TEXT_3D, VISION
from .recipe import Family, Layout

BOTH: tuple[Layout, ...] = ("saved", "converted")
ALL: tuple[Layout, ...] = (*BOTH, "older")
CLIP_TEXT = ENCODER | {"num_hidden_layers": 1, "projection_dim": 24}


def towers(tensors: Tensors) -> Tensors:
    """Put back the level that published vision towers have and transformers 5 took out."""
    level = r"^vision_tower\.(?!vision_model\.)"
    return {re.sub(level, "vision_tower.vision_model.", n): t for n, t in tensors.items()}


SEEING = (
    Family(
        name="vit",
        model="ViTForImageClassification",
        config={**VISION, "num_labels": 5},
        layouts=BOTH,
        takes=("pixel_values",),
    ),
    Family(
        name="clip",
        model="CLIPModel",
        config={"text_config": CLIP_TEXT, "vision_config": VISION, "projection_dim": 24},
        takes=("input_ids", "pixel_values"),
    ),
    Family(
        name="whisper",
        model="WhisperForConditionalGeneration",
        config={
            **SEQ2SEQ,
            "num_mel_bins": 20,
            "max_source_positions": 8,
            "max_target_positions": 16,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        takes=("input_features", "decoder_input_ids"),
    ),
    Family(
        name="llava",
        model="LlavaForConditionalGeneration",
        config={
            "text_config": {**DECODER, "model_type": "llama"},
            "vision_config": {**VISION, "model_type": "clip_vision_model", "projection_dim": 24},
            "image_token_id": 90,
            "vision_feature_layer": -1,
        },
        layouts=ALL,
        older=towers,
    ),
    Family(
        name="gemma3",
        model="Gemma3ForConditionalGeneration",
        config={
            "text_config": DECODER,
            "vision_config": {**VISION, "vision_use_head": False},
            "mm_tokens_per_image": 4,
            "image_token_id": 90,
            "boi_token_index": 91,
            "eoi_token_index": 92,
        },
        layouts=ALL,
        older=towers,
    ),
    Family(
        name="qwen2_vl",
        model="Qwen2VLForConditionalGeneration",
        config={
            "text_config": TEXT_3D,
            "vision_config": {**QWEN_VISION, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
            **IMAGE,
        },
        layouts=BOTH,
    ),
    Family(
        name="qwen2_5_vl",
        model="Qwen2_5_VLForConditionalGeneration",
        config={
            "text_config": TEXT_3D,
            "vision_config": {
                **QWEN_VISION,
                "hidden_size": 32,
                "out_hidden_size": 64,
                "intermediate_size": 44,
                "fullatt_block_indexes": [0],
                "window_size": 16,
            },
            **IMAGE,
        },
        layouts=BOTH,
    ),
)
