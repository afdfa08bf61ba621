"""How tensor-parallel ranks share v1.3's denoisers: attention by heads, feed-forward layers by their inner width."""

from mindsora.models.sharding import Sharding

SHARDING = Sharding(
    split=(
        (r".*\.attn[12]\.to_[qkv]\.(?:weight|bias)", 0),
        (r".*\.net\.0\.proj\.(?:weight|bias)", 0),
        (r".*\.attn[12]\.to_out\.0\.weight", 1),
        (r".*\.net\.2\.weight", 1),
    ),
    heads="num_attention_heads",
)
