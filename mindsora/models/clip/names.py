"""CLIP text model with projection: the keys of transformers' CLIPTextModelWithProjection, or of a whole CLIP."""

from mindsora.models.naming import NameTable, Shapes, count

_TOKENS = "text_model.embeddings.token_embedding.weight"
_POSITIONS = "text_model.embeddings.position_embedding.weight"
_FC1 = "text_model.encoder.layers.0.mlp.fc1.weight"
_PROJECTION = "text_projection.weight"


def _infer(shapes: Shapes) -> tuple[dict, dict]:
    width = shapes[_TOKENS][1]
    config = {
        "vocab_size": shapes[_TOKENS][0],
        "hidden_size": width,
        "intermediate_size": shapes[_FC1][0],
        "projection_dim": shapes[_PROJECTION][0],
        "max_position_embeddings": shapes[_POSITIONS][0],
        "num_hidden_layers": count(shapes, r"text_model\.encoder\.layers\.(\d+)\..*"),
    }
    # Heads of 64 in every released size. OpenAI's (up to 768 wide) use quick_gelu, OpenCLIP's (from 1024) gelu.
    rest = {
        "num_attention_heads": max(1, width // 64),
        "hidden_act": "gelu" if width >= 1024 else "quick_gelu",
        "layer_norm_eps": 1e-5,
        "eos_token_id": 49407,
    }
    return config, rest


TABLE = NameTable(
    stem="model",
    signature=(_TOKENS, _POSITIONS, _FC1, _PROJECTION),
    infer=_infer,
    often_wrong=frozenset({"projection_dim"}),  # published files leave it out of text_config
    rules=(
        (r"((?:token|position)_embedding\..*)", r"text_model.embeddings.\1"),
        (r"layers\.(\d+)\.(fc[12]\..*)", r"text_model.encoder.layers.\1.mlp.\2"),
        (r"layers\.(.*)", r"text_model.encoder.layers.\1"),
        (r"(final_layer_norm\..*)", r"text_model.\1"),
    ),
    aliases=((r"((?:embeddings|encoder|final_layer_norm)\..*)", r"text_model.\1"),),  # a bare CLIPTextModel's keys
    ignored=(
        r"text_model\.embeddings\.position_ids",  # 0, 1, 2, ...: in older files only
        r"vision_model\..*",
        r"visual_projection\.weight",
        r"logit_scale",
    ),
)
