"""GPU kernels in Triton: imported when a CUDA tensor first asks for one, so that nobody else waits for Triton."""
