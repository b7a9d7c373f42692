"""Triton kernels, installed as ``rsd_fast.kernels``: the GPU path with no compiler. They register nothing."""
