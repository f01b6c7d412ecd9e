"""Speed and memory measurements, run by hand; each prints the reference and the machine."""
