"""How tensor-parallel ranks share a T5 encoder: attention by heads, feed-forward by its width, the table by channels."""

from mindsora.models.sharding import Sharding

SHARDING = Sharding(
    split=(
        (r".*\.SelfAttention\.[qkv]\.weight", 0),
        (r".*\.DenseReluDense\.wi_[01]\.weight", 0),
        (r".*\.SelfAttention\.o\.weight", 1),
        (r".*\.DenseReluDense\.wo\.weight", 1),
        (r"shared\.weight", 1),
    ),
    heads="num_heads",
)
