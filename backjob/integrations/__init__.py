"""Integrations with web frameworks, one module for each. Nothing else in backjob imports a framework."""
