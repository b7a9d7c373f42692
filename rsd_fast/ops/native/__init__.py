"""Kernels of csrc/, for "cpu" and, where built, "cuda": blur.py has those of the ops of ../blur.py, and so on."""
