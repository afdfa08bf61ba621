"""T5 v1.1, mT5 and UMT5 encoders: the keys of transformers' T5EncoderModel, or of a full encoder-decoder."""

from mindsora.models.naming import NameTable, Shapes, count

_BLOCK = "encoder.block.0.layer."


def _infer(shapes: Shapes) -> tuple[dict, dict]:
    vocabulary, width = shapes["shared.weight"]
    buckets, heads = shapes[_BLOCK + "0.SelfAttention.relative_attention_bias.weight"]
    layers = count(shapes, r"encoder\.block\.(\d+)\..*")
    tables = count(shapes, r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.weight")
    config = {
        "vocab_size": vocabulary,
        "d_model": width,
        "num_heads": heads,
        "num_layers": layers,
        "d_kv": shapes[_BLOCK + "0.SelfAttention.q.weight"][0] // heads,
        "d_ff": shapes[_BLOCK + "1.DenseReluDense.wi_0.weight"][0],
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
    }
    # mT5 differs from T5 v1.1 only in the vocabulary; the Cells are the same.
    kind = "umt5" if tables > 1 else "mt5" if vocabulary > 200_000 else "t5"
    return config | {"model_type": kind}, {"relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6}


TABLE = NameTable(
    stem="model",
    signature=(
        "shared.weight",
        _BLOCK + "0.SelfAttention.q.weight",
        _BLOCK + "1.DenseReluDense.wi_0.weight",
        _BLOCK + "0.SelfAttention.relative_attention_bias.weight",
    ),
    infer=_infer,
    often_wrong=frozenset({"model_type", "feed_forward_proj"}),  # mt5 files say t5 and the reverse
    rules=(
        (r"relative_bias\.(\d+)\.weight", r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.weight"),
        (r"blocks\.(\d+)\.attention_norm\.weight", r"encoder.block.\1.layer.0.layer_norm.weight"),
        (r"blocks\.(\d+)\.attention\.(.*)", r"encoder.block.\1.layer.0.SelfAttention.\2"),
        (r"blocks\.(\d+)\.feed_forward_norm\.weight", r"encoder.block.\1.layer.1.layer_norm.weight"),
        (r"blocks\.(\d+)\.feed_forward\.(.*)", r"encoder.block.\1.layer.1.DenseReluDense.\2"),
        (r"final_norm\.weight", r"encoder.final_layer_norm.weight"),
    ),
    aliases=((r"encoder\.embed_tokens\.weight", r"shared.weight"),),  # one table, saved under either name or both
    tied={"encoder.embed_tokens.weight": "shared.weight"},
    # A separate table, not the transposed embedding: v1.1, mT5 and UMT5 do not tie lm_head.
    ignored=(r"decoder\..*", r"lm_head\.weight"),
)
