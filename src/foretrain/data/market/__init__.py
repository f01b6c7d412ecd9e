"""Markets: libraries of symbols and their sources, how bars are judged, and prices adjusted as of a date."""
