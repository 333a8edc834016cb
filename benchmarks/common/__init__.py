"""What the benchmarks of the CPU and of the GPU share."""
