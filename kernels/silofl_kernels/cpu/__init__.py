"""The CPU's backend: numba kernels for NumPy arrays, with LLVM code of our own where it pays.

`kernels.py` lists what it offers. Arguments arrive checked.
"""
