"""Several cards for one video or one step: groups of ranks, collectives with gradients, and what is built on them."""
