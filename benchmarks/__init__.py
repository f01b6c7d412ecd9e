"""Speed and memory measurements, run by hand; each prints what it measured against and on what."""
