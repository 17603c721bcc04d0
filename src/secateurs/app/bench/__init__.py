"""Benchmarks: latency of networks, and coverage of architectures."""
