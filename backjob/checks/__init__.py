"""Will jobs work here? Measurements, and the findings that are made of them."""
