"""Tools of maintainers, each one command; they are no part of the package."""
