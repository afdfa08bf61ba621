"""How MindSpeed-MM's ranks share SUV: attention by heads, feed-forward layers by their inner width."""

from mindsora.models.sharding import Sharding

SHARDING = Sharding(
    # linear_1 and linear_2 of the time embedding do not match `linear`: every rank holds them whole.
    split=(
        (r".*\.attn1\.(?:to_[qkv]|add_[qkv]_proj)\.(?:weight|bias)", 0),
        (r".*\.net\.0\.proj\.(?:weight|bias)", 0),
        (r".*\.linear\.(?:weight|bias)", 0),
        (r".*\.attn1\.(?:to_out\.0|to_add_out)\.weight", 1),
        (r".*\.net\.2\.weight", 1),
    ),
    heads="num_heads",
    stages="transformer_blocks",
)
