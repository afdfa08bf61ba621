"""One file per training method: the Cells it trains, its loss, and its batches."""
