"""Which job runs when: limits, queue, launches and their monitors, leases, the keeper."""
