"""The processes of a run: ranks, devices and collectives."""
