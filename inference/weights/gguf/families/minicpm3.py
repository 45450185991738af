"""MiniCPM 3: attention of latents, without experts."""

from typing import Any

from inference.weights.gguf.architecture import LAYER, Architecture
from inference.weights.gguf.families.mixtures import LATENTS
from inference.weights.gguf.file import BadGGUF, GGUFFile


def _minicpm3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Files do not say how wide values are, nor the scales, which are those of the one model that there is."""
    rotated, keys = file.count("rope.dimension_count"), file.count("attention.key_length")
    rows = file.tensors.get("blk.0.attn_kv_b.weight")
    if rows is None:
        raise BadGGUF(file.path, "expected a tensor blk.0.attn_kv_b.weight, of the keys and values of all heads")
    return {
        "kv_lora_rank": file.count("attention.kv_lora_rank"),
        "q_lora_rank": file.count("attention.q_lora_rank"),
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": keys - rotated,
        "v_head_dim": rows.shape[0] // common["num_attention_heads"] - (keys - rotated),
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 256,
    }


FAMILY = {
    "minicpm3": Architecture(
        "minicpm3",
        _minicpm3,
        frozenset({"attention.kv_lora_rank", "attention.q_lora_rank"}),
        LAYER | LATENTS,
        has_latents=True,
    ),
}
