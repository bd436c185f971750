"""BackJob in people's frameworks: a module each, in its framework's own ways. The package imports none of them."""
