"""GPU kernels in Triton: imported when a CUDA tensor first needs one, since importing Triton takes a second."""
