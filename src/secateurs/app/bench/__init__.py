"""Measurements: how fast, how small, and under which conditions."""
