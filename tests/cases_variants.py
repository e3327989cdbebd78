"""Cases of LoRA's options and variants: scales, initialisations, DoRA and its relatives, biases."""

import torch
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig

from tests.cases_models import bert, convolutions, gpt2, llama, qwen2
from tests.cases_plain import ATTENTION, LINEAR, causal, lora, plain_lora, seq_lora, sequence
from tests.cases_recipe import case, edit_config

MAGNITUDE = ("lora_magnitude_vector",)


SCALES = (
    causal("rslora", llama(), lora(*LINEAR, use_rslora=True)),
    causal(
        "rslora_patterns", gpt2(), lora("c_attn", "c_fc", use_rslora=True, rank_pattern={"c_fc": 6})
    ),
    causal(
        "patterns",  # written sorted: the order in the file differs from the one in training
        llama(),
        lora(
            *LINEAR,
            rank_pattern={
                r".*\.1\..*v_proj": 6,
                "down_proj": 2,
                "layers.0.self_attn.q_proj": 3,
                "q_proj": 5,
            },
            alpha_pattern={
                "q_proj": 20,
                "self_attn.k_proj": 3,
                "layers.0.self_attn.q_proj": 5,
                r".*\.1\.mlp\..*": 2,
            },
        ),
    ),
    causal(
        "patterns_shadowed",  # in the file `o_proj` comes first, and takes all modules
        llama(),
        lora(
            "o_proj",
            "up_proj",
            alpha_pattern={"self_attn.o_proj": 1, "o_proj": 24, "proj": 99, r"^up_proj": 77},
        ),
    ),
    causal("alpha_fraction", llama(), lora("q_proj", lora_alpha=0.37, r=3)),
)

INITS = (
    causal("init_gaussian", llama(), lora(*ATTENTION, init_lora_weights="gaussian")),
    causal("init_orthogonal", llama(), lora(*ATTENTION, init_lora_weights="orthogonal")),
    causal("init_eva", llama(), lora(*ATTENTION), finish=edit_config(init_lora_weights="eva")),
    causal(
        "init_mica", llama(), lora(*ATTENTION, init_lora_weights="mica"), load_dtype=torch.float32
    ),
)

DORA = (
    causal("dora_linear", llama(), lora(*LINEAR, use_dora=True), keys=MAGNITUDE),
    causal("dora_rslora", llama(), lora("v_proj", use_dora=True, use_rslora=True), keys=MAGNITUDE),
    causal("dora_gpt2", gpt2(), lora("c_attn", "c_proj", "c_fc", use_dora=True), keys=MAGNITUDE),
    causal("dora_gpt2_head", gpt2(), lora("c_proj", "lm_head", use_dora=True), keys=MAGNITUDE),
    causal("dora_embedding", llama(), lora("embed_tokens", use_dora=True), keys=MAGNITUDE),
    case("dora_conv1d", convolutions, plain_lora("line", use_dora=True), keys=MAGNITUDE),
    case("dora_conv2d", convolutions, plain_lora("point", "plane", use_dora=True), keys=MAGNITUDE),
    case("dora_conv3d", convolutions, plain_lora("space", use_dora=True), keys=MAGNITUDE),
)

RELATIVES = (
    causal(
        "bdlora",
        llama(),
        lora(
            *LINEAR,
            use_bdlora=BdLoraConfig(
                target_modules_bd_a=["o_proj", "down_proj"],
                target_modules_bd_b=["q_proj", "k_proj", "v_proj", "up_proj"],
                nblocks=2,
                match_strict=False,
            ),
        ),
    ),
    causal(
        "kasa",  # PEFT's singular values are float32
        llama(),
        lora(*ATTENTION, kasa_config=KasaConfig()),
        keys=("lora_diag",),
        tolerance=3e-6,
    ),
    causal(
        "velora",
        llama(),
        lora(*ATTENTION, velora_config=VeloraConfig(num_groups=4, init_type="random")),
        keys=("lora_velora_embed",),
    ),
    causal(
        "monteclora",
        llama(),
        lora("q_proj", "v_proj", monteclora_config=MontecloraConfig(num_samples=2, buffer_size=2)),
        keys=("lora_monteclora_sampler.std_prior",),
    ),
)

BIASES = (
    causal(
        "lora_bias",
        qwen2(),
        lora("q_proj", "k_proj", "v_proj", lora_bias=True),
        keys=("lora_B.bias",),
    ),
    causal("lora_bias_gpt2", gpt2(), lora("c_attn", "c_fc", lora_bias=True), keys=("lora_B.bias",)),
    causal("bias_all", qwen2(), lora(*LINEAR, bias="all"), keys=("q_proj.base_layer.bias",)),
    causal(
        "bias_all_gpt2",
        gpt2(),
        lora("c_attn", bias="all"),
        keys=("ln_1.bias", "c_attn.base_layer.bias"),
    ),
    causal(
        "bias_lora_only", gpt2(), lora("c_attn", bias="lora_only"), keys=("c_attn.base_layer.bias",)
    ),
    sequence(
        "bias_all_head", bert(), seq_lora("query", "value", bias="all"), keys=("classifier.bias",)
    ),
)

VARIANTS = SCALES + INITS + DORA + RELATIVES + BIASES
