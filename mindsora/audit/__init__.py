"""What a clip will cost, what made it, and what was claimed about it: plan, manifests, claims, doctor."""
