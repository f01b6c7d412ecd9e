"""Time: frequencies, grids of stamps, trading weeks, exchanges, and the stamps that follow a history."""
