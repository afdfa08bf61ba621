"""Llama decoders: the keys of transformers' LlamaForCausalLM."""

from mindsora.models.naming import NameTable, Shapes, count

_EMBEDDING = "model.embed_tokens.weight"
_Q, _K = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qk")
_GATE = "model.layers.0.mlp.gate_proj.weight"


def _infer(shapes: Shapes) -> tuple[dict, dict]:
    vocabulary, width = shapes[_EMBEDDING]
    config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[_GATE][0],
        "num_hidden_layers": count(shapes, r"model\.layers\.(\d+)\..*"),
        "tie_word_embeddings": "lm_head.weight" not in shapes,
    }
    head_dim = 128 if shapes[_Q][0] % 128 == 0 and shapes[_K][0] % 128 == 0 else 64
    heads = {
        "head_dim": head_dim,
        "num_attention_heads": max(1, shapes[_Q][0] // head_dim),
        "num_key_value_heads": max(1, shapes[_K][0] // head_dim),
    }
    return config, heads | {"rms_norm_eps": 1e-5, "rope_theta": 500_000.0}


TABLE = NameTable(
    stem="model",
    signature=(_EMBEDDING, _Q, _GATE, "model.norm.weight"),
    infer=_infer,
    often_wrong=frozenset({"tie_word_embeddings"}),  # a key that many files leave to the library's default
    rules=((r"(embed_tokens|layers|norm)\.(.*)", r"model.\1.\2"),),
    aliases=((r"((?:embed_tokens|layers|norm)\..*)", r"model.\1"),),  # tied heads: every key begins with "model."
    tied={"lm_head.weight": _EMBEDDING},
    ignored=(r".*\.rotary_emb\.inv_freq",),  # a table: in older files only
)
