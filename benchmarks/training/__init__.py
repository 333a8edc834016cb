"""Experiments that train or score networks."""
