"""Scheduling of jobs: limits, queue, launches and their monitors, leases, the keeper."""
