"""GLM 4: rotated in part, by neighbours as in llama.cpp, so that no rows change places."""

from inference.weights.gguf.architecture import LAYER, QKV, Architecture

GATED = {"ffn_up": "mlp.gate_up_proj"}
"""Gate and up are one matrix."""
FOUR_NORMS = {
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
BIASES = {"attention_bias": QKV}
FAMILY = {
    "chatglm": Architecture("glm", layer=LAYER | GATED, rotates_in_part=True, biases=BIASES),
    "glm4": Architecture("glm4", layer=LAYER | GATED | FOUR_NORMS, rotates_in_part=True, biases=BIASES),
}
