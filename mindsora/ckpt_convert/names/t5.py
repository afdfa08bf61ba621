"""T5 v1.1, mT5 and UMT5 encoders: the keys of transformers' T5EncoderModel, or of a full encoder-decoder."""

from mindsora.ckpt_convert.names.table import NameTable

TABLE = NameTable(
    rules=(
        (r"relative_bias\.(\d+)\.weight", r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.weight"),
        (r"blocks\.(\d+)\.attention_norm\.weight", r"encoder.block.\1.layer.0.layer_norm.weight"),
        (r"blocks\.(\d+)\.attention\.(.*)", r"encoder.block.\1.layer.0.SelfAttention.\2"),
        (r"blocks\.(\d+)\.feed_forward_norm\.weight", r"encoder.block.\1.layer.1.layer_norm.weight"),
        (r"blocks\.(\d+)\.feed_forward\.(.*)", r"encoder.block.\1.layer.1.DenseReluDense.\2"),
        (r"final_norm\.weight", r"encoder.final_layer_norm.weight"),
    ),
    aliases=((r"encoder\.embed_tokens\.weight", r"shared.weight"),),  # one table, saved under either name or both
    # A table of its own, not the embedding transposed: v1.1, mT5 and UMT5 do not tie lm_head.
    ignored=(r"decoder\..*", r"lm_head\.weight"),
)
