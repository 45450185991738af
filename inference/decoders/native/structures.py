"""The structures of structures.hpp and shares.hpp, field by field."""

import ctypes


class Strip(ctypes.Structure):
    _fields_ = (
        ("format", ctypes.c_int64),
        ("blocks", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("packed", ctypes.c_void_p),
    )


class Matrix(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("panels", "strips", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "panel_count", "scaled_inputs")),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, Matrix) for name in ("qkv", "output", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "mlp_norm")),
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm", "attended_norm", "activated_norm")),
        *((name, ctypes.c_void_p) for name in ("cosines", "sines", "keys", "values")),
        ("window", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("sinks", "router", "router_bias")),
    )


class Group(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("expert", "first", "rows"))


class Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        ("head", Matrix),
        *((name, ctypes.c_void_p) for name in ("embedding", "embedding_rows")),
        *((name, ctypes.c_int64) for name in ("embedding_row_size", "embedding_format")),
        ("final_norm", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("layer_count", "hidden", "vocabulary", "kv_heads", "context")),
        ("pages", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("slot_pages", "page_stride")),
        *((name, ctypes.c_double) for name in ("epsilon", "scale", "embedding_scale", "score_cap", "logit_cap")),
        ("is_gelu", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("gate_limit", "gate_factor")),
        *((name, ctypes.c_int64) for name in ("experts", "padded_experts", "experts_per_token", "weights_add_up")),
    )


class Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("token_ids", "positions", "slots", "sampled")),
        *((name, ctypes.c_int64) for name in ("token_count", "sampled_count", "threads", "widened_size")),
        ("processors", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in ("neighbours", "places", "hidden", "added", "qkv", "normed")),
        *(
            (name, ctypes.c_void_p)
            for name in ("attended", "activated", "scores", "inputs", "widened", "logits", "shares")
        ),
        *((name, ctypes.c_void_p) for name in ("expert_scores", "expert_weights", "experts", "expert_rows", "groups")),
        *((name, ctypes.c_void_p) for name in ("expert_inputs", "expert_activated", "expert_outputs")),
    )


class Share(ctypes.Structure):
    _fields_ = (("panels", ctypes.c_uint64), ("rest_of_the_cache_line", ctypes.c_uint64 * 7))
