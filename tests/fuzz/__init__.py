"""Fuzzers: random and mutated input for what strangers can write, ``make fuzz``."""
