"""BackJob in people's frameworks: a module each, in its framework's own ways. The package itself imports none."""
