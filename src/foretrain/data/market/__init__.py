"""Libraries of market symbols: what a folder holds, assets, and the corpora made of them."""
