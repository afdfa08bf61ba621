"""MindSpore's own Ascend back end without CANN and without a card: graphs compile, nothing computes. See docs/ascend.md."""
