"""Cases that PEFT merges wrongly, so its unmerged model judges; and several adapters at once."""

from functools import partial

from tests.cases_models import VOCAB, gpt2, llama, qwen2
from tests.cases_plain import LINEAR, causal, lora
from tests.cases_saved import BIGGER, TOKEN_KEYS, shift
from tests.cases_variants import MAGNITUDE

judged = partial(causal, oracle="forward")
HEAD = ("lm_head.lora_A.weight",)
EMBEDDING = ("embed_tokens.lora_embedding_A",)
BOTH = ["embed_tokens", "lm_head"]

SHARED = (
    judged("tied_lm_head", llama(tied=True), lora("q_proj", "lm_head"), keys=HEAD),
    judged("tied_lm_head_qwen2", qwen2(tied=True), lora("q_proj", "lm_head"), keys=HEAD),
    judged("tied_lm_head_gpt2", gpt2(tied=True), lora("c_attn", "lm_head"), keys=HEAD),
    judged("tied_embedding", llama(tied=True), lora("q_proj", "embed_tokens"), keys=EMBEDDING),
    judged("tied_embedding_gpt2", gpt2(tied=True), lora("wte"), keys=("wte.lora_embedding_A",)),
    judged("tied_both", llama(tied=True), lora("q_proj", *BOTH), keys=HEAD + EMBEDDING),
    judged("tied_both_qwen2", qwen2(tied=True), lora(*BOTH), keys=HEAD + EMBEDDING),
    judged("tied_dora_both", llama(tied=True), lora(*BOTH, use_dora=True), keys=MAGNITUDE),
    judged(
        "tied_ensured",
        llama(tied=True),
        lora("q_proj", *BOTH, ensure_weight_tying=True),
        keys=HEAD + EMBEDDING,
    ),
    judged(
        "tied_ensured_embedding",
        qwen2(tied=True),
        lora("embed_tokens", ensure_weight_tying=True),
        keys=EMBEDDING,
    ),
    causal("tied_untouched", llama(tied=True), lora(*LINEAR)),
)

SAVED = (
    judged("tied_save_lm_head", llama(tied=True), lora("q_proj", modules_to_save=["lm_head"])),
    judged(
        "tied_save_embedding", llama(tied=True), lora("q_proj", modules_to_save=["embed_tokens"])
    ),
    judged("tied_save_both", qwen2(tied=True), lora("q_proj", modules_to_save=BOTH)),
    judged(
        "tied_save_ensured",
        llama(tied=True),
        lora("q_proj", modules_to_save=BOTH, ensure_weight_tying=True),
    ),
    judged(
        "tied_save_ensured_embedding",
        llama(tied=True),
        lora("q_proj", modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    ),
    judged("tied_save_lm_head_gpt2", gpt2(tied=True), lora("c_attn", modules_to_save=["lm_head"])),
)

VOCABULARY = (
    judged(
        "tied_tokens",
        llama(tied=True),
        lora("q_proj", trainable_token_indices=[3, 7, 90]),
        keys=TOKEN_KEYS,
    ),
    judged(
        "tied_tokens_gpt2",
        gpt2(tied=True),
        lora("c_attn", trainable_token_indices={"wte": [90, 2, 41]}),
        keys=("wte.token_adapter.trainable_tokens_delta",),
    ),
    judged(
        "tied_tokens_both",
        llama(tied=True),
        lora("q_proj", trainable_token_indices={"embed_tokens": [9, 3], "lm_head": [9, 3]}),
        keys=TOKEN_KEYS,
    ),
    judged(
        "tied_tokens_apart",
        llama(tied=True),
        lora("q_proj", trainable_token_indices={"embed_tokens": [5, 3], "lm_head": [7, 17]}),
        keys=(*TOKEN_KEYS, "lm_head.token_adapter.trainable_tokens_delta"),
    ),
    judged(
        "tied_resized",
        llama(tied=True),
        lora("q_proj"),
        resize=BIGGER,
        drift=shift("embed_tokens.weight"),
        keys=("embed_tokens.weight",),
    ),
    judged(
        "tied_resized_saved",
        llama(tied=True),
        lora("q_proj", modules_to_save=BOTH),
        resize=BIGGER,
        shard_size="20KB",
    ),
    judged(
        "tied_resized_tokens",
        llama(tied=True),
        lora("q_proj", trainable_token_indices=[3, VOCAB, BIGGER - 1]),
        resize=BIGGER,
        keys=TOKEN_KEYS,
    ),
)

REPLICATED = (
    judged(
        "replicated", llama(), lora(*LINEAR, layer_replication=[[0, 2], [1, 2]]), shard_size="20KB"
    ),
    judged(
        "replicated_tied",
        llama(tied=True),
        lora("q_proj", layer_replication=[[0, 1], [0, 2], [1, 2]]),
    ),
)

SEVERAL = (
    causal("two", llama(), lora(*LINEAR), lora("q_proj", "up_proj", r=6), shard_size="20KB"),
    causal("two_scaled", llama(), lora(*LINEAR), lora("q_proj", "up_proj", r=6), scales=(0.7, 0.3)),
    causal(
        "two_scaled_gpt2",
        gpt2(),
        lora("c_attn"),
        lora("c_attn", "c_fc", use_rslora=True),
        scales=(0.7, -0.3),
    ),
    causal("one_scaled", llama(), lora(*LINEAR), scales=(0.25,)),
    causal("one_scaled_bias", qwen2(), lora("q_proj", lora_bias=True), scales=(-0.5,)),
    causal(
        "two_dora",
        llama(),
        lora(*LINEAR, use_dora=True),
        lora("q_proj", "v_proj", use_dora=True),
        keys=MAGNITUDE,
    ),
)

TIED = SHARED + SAVED + VOCABULARY + REPLICATED + SEVERAL
