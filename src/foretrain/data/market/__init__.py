"""Libraries of market bars: a folder with a CSV file for each symbol, and where its bars come from."""
