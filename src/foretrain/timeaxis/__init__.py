"""Time axes: frequencies, regular grids, gaps, trading weeks, exchange calendars, and stamps after a history."""
