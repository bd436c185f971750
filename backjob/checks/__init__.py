"""The check whether jobs will work here: measurements, and the findings that are made of them."""
