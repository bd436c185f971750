"""Tests with real servers. Each job leaves its trace in a file of its own making, the judge (apps/judge.py)."""
