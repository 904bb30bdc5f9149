"""The keys of a `config.json` that must have certain values, because the decoder computes nothing else.

Sources: the configuration classes of transformers 4.57 and 5, and BAAI's `configuration_emu3.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

EMU3_TYPES = ("Emu3", "emu3", "emu3_text_model")
# Families that compute the same, with other defaults, and whether they normalize queries and keys. A config of Emu3's
# types does not state that.
HAS_QK_NORM = {"llama": False, "mistral": False, "qwen3": True}
MODEL_TYPES = (*EMU3_TYPES, *HAS_QK_NORM)
QK_NORM_KEYS = ("qk_norm", "use_qk_norm")

# Key -> the values with which the decoder computes what the model means; null and absent keys are always accepted.
MUST_EQUAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("hidden_act", "hidden_activation", "activation_function"), ("silu", "swish")),
    **dict.fromkeys(("attention_bias", "mlp_bias", "bias", "use_bias", "qkv_bias", "lm_head_bias"), (False,)),
    **dict.fromkeys(QK_NORM_KEYS, (False, True)),
    **dict.fromkeys(("qk_layernorm", "use_qk_layernorm", "parallel_attn"), (False,)),
    **dict.fromkeys(("use_parallel_residual", "alibi", "use_alibi", "use_mrope", "scale_embedding"), (False,)),
    **dict.fromkeys(("use_sliding_window", "rope_interleaved", "attention_sink", "attn_output_gate"), (False,)),
    **dict.fromkeys(("is_encoder_decoder", "add_cross_attention", "cross_attention"), (False,)),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct", "rotary_percent", "rotary_fraction"), (1,)),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"), (1,)),
    **dict.fromkeys(("lm_head_multiplier", "output_multiplier_scale", "embedding_scale", "mup_width_scale"), (1,)),
    **dict.fromkeys(("clip_qkv", "final_logit_softcapping", "attn_logit_softcapping", "logit_softcap"), ()),
    **dict.fromkeys(("attention_multiplier", "query_pre_attn_scalar", "attention_scale", "scale_depth"), ()),
    **dict.fromkeys(("attention_chunk_size", "rope_local_base_freq", "quantization_config"), ()),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"), (0,)),
    "no_rope_layers": ([],),
    "pruned_heads": ({},),
    "norm_type": ("rmsnorm", "rms_norm"),
    "position_embedding_type": ("rope", "rotary"),
    "norm_topk_prob": (False,),
}

# Keys that do not change the logits, although their names might suggest it.
IRRELEVANT = {
    *("attention_dropout", "attn_dropout", "attention_probs_dropout_prob", "embd_pdrop", "embd_dropout"),
    *("hidden_dropout", "hidden_dropout_prob", "resid_pdrop", "layerdrop", "mlp_dropout"),
    *("attn_implementation", "attention_implementation", "attn_type", "num_logits_to_keep", "logits_to_keep"),
    *("use_flash_attn", "use_flash_attention", "use_flash_attention_2", "cross_attention_hidden_size"),
    *("chunk_size_feed_forward", "output_attentions", "output_hidden_states"),
    *("layer_norm_eps", "layer_norm_epsilon", "max_window_layers", "tie_encoder_decoder", "base_model_tp_plan"),
    *("original_max_position_embeddings", "token_layout"),
    # These are read, or checked separately.
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "rope_theta", "rope_parameters", "rope_scaling", "rms_norm_eps"),
    *("tie_word_embeddings", "head_dim", "sliding_window", "layer_types"),
}
_SUGGESTS_COMPUTATION = re.compile(
    r"rope|rotary|attn|attention|norm|scal|bias|activation|softcap|window|expert|moe|logit|multiplier|layer|head|mlp"
    r"|quanti|position|alibi|embed|sink|residual"
)
# Beginnings of names: defaults of generation, and what transformers keeps for itself (`_attn_implementation_autoset`).
_IRRELEVANT_PREFIXES = ("output_logits", "renormalize_logits", "forced_", "suppress_", "_")


def unsupported_keys(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield a problem for every key whose value requires something that the decoder does not compute."""
    for key, value in raw.items():
        if value is None or key in IRRELEVANT:
            continue
        if key in MUST_EQUAL:
            if value not in MUST_EQUAL[key]:
                yield _problem(key, value, MUST_EQUAL[key])
        elif value and _SUGGESTS_COMPUTATION.search(key) and not key.startswith(_IRRELEVANT_PREFIXES):
            yield f"{key} {value!r:.60}: not known; it may change the results"
    yield from (problem for check in _CHECKS for problem in check(raw))


def stated_qk_norm(raw: Mapping[str, Any]) -> tuple[str, bool | None]:
    """Return whether queries and keys are normalized, None if no key states it, and the key that does."""
    for key in QK_NORM_KEYS:
        if isinstance(raw.get(key), bool):
            return key, raw[key]
    kind = raw.get("model_type")
    return "model_type", HAS_QK_NORM.get(kind) if isinstance(kind, str) else None


def _problem(key: str, value: Any, allowed: tuple[Any, ...]) -> str:
    expected = " or ".join(map(repr, allowed)) or "null"
    return f"{key} {value!r:.60}: expected {expected}"


def _model_type(raw: Mapping[str, Any]) -> Iterator[str]:
    kind = raw.get("model_type")
    if kind in ("Emu3VisionVQ", "emu3_vqgan"):
        yield f"model_type {kind!r}: this is a vision tokenizer; expected a language model"
    elif kind is not None and kind not in MODEL_TYPES:
        yield f"model_type {kind!r:.60}: expected one of {', '.join(MODEL_TYPES)}"


def _sliding_window(raw: Mapping[str, Any]) -> Iterator[str]:
    """A window of at least all positions hides nothing, and 0 means none."""
    window, positions = raw.get("sliding_window"), raw.get("max_position_embeddings")
    if window in (None, 0) or raw.get("use_sliding_window") is False:
        return
    if not isinstance(window, int) or not isinstance(positions, int) or window < positions:
        yield f"sliding_window {window!r:.60}: expected null, because every token attends to all before it"


def _layer_types(raw: Mapping[str, Any]) -> Iterator[str]:
    types = raw.get("layer_types")
    if types is not None and (not isinstance(types, list) or any(one != "full_attention" for one in types)):
        yield f"layer_types {types!r:.60}: expected 'full_attention' for every layer"


_CHECKS: tuple[Callable[[Mapping[str, Any]], Iterator[str]], ...] = (_model_type, _sliding_window, _layer_types)


def rope_theta(raw: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return the base of the rotary frequencies, None if it is not stated, and problems with their description.

    It is `rope_theta`, or since transformers 5 `rope_parameters.rope_theta`. Only unscaled frequencies are supported.
    """
    found, problems = [], []
    if raw.get("rope_theta") is not None:
        found.append(raw["rope_theta"])
    for key in ("rope_parameters", "rope_scaling"):
        described = raw.get(key)
        if described is None:
            continue
        if not isinstance(described, Mapping):
            problems.append(f"{key} {described!r:.60}: expected an object")
            continue
        problems += [f"{key}.{one}" for one in _rope_problems(described)]
        if described.get("rope_theta") is not None:
            found.append(described["rope_theta"])
    if any(one != found[0] for one in found):
        problems.append(f"rope_theta: expected one value, got {' and '.join(map(repr, found))}")
    return found[0] if found else None, problems


def _rope_problems(described: Mapping[str, Any]) -> Iterator[str]:
    for key, value in described.items():
        if key in ("rope_type", "type"):
            if value != "default":
                yield f"{key} {value!r:.60}: expected 'default', because scaled frequencies are not supported"
        elif key == "partial_rotary_factor":
            if value not in (None, 1):
                yield f"{key} {value!r:.60}: expected 1"
        elif key not in ("rope_theta", "original_max_position_embeddings") and value is not None:
            yield f"{key} {value!r:.60}: not supported"
