"""The store of jobs: its contract, its hooks, and an implementation on SQL databases and one on caches."""
