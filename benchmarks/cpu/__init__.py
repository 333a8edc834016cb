"""Benchmarks on a CPU: attention beside the convolution it replaces."""
