"""Benchmarks on one GPU: correctness first, then the kernels, then whole networks (`python -m benchmarks.gpu`)."""
