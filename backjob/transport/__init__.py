"""Self-requests: the application's own address, tokens and proofs, and the meaning of each answer."""
