"""Kernels of ``rsd_fast.kernels``, for "cuda" where there are no native ones: blur.py has those of the ops of
../blur.py, and so on. Triton is imported on the first call.
"""
