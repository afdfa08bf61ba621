"""CLIP text model with projection: the keys of transformers' CLIPTextModelWithProjection, or of a whole CLIP."""

from mindsora.ckpt_convert.names.table import NameTable

TABLE = NameTable(
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
