"""Numba kernels on plain arrays: keystreams, fixed-point rings, masks, sums, noise, rotations, compression.

Arrays in, arrays out: nothing here knows a rank, a tensor library or a protocol. Every function writes into
an array that the caller owns, holds no lock of the interpreter while it works, and uses one core. The type of
the arrays chooses the code (`backend.py`); NumPy's run on the CPU (`cpu/`).
"""

import numpy as np

from silofl_kernels.backend import Backend, register
from silofl_kernels.blockwise import (
    code_dtype,
    code_limit,
    dequantize_blocks,
    dequantize_segments,
    quantize_blocks,
    quantize_segments,
)
from silofl_kernels.centred_table import CENTRED_VARIANCE, FRACTION_BITS
from silofl_kernels.correlated import correlate_noise
from silofl_kernels.count_sketch import CountSketch, sketch, unsketch
from silofl_kernels.cpu import kernels as _cpu_kernels
from silofl_kernels.distances import squared_distances
from silofl_kernels.exact import ExactFormat
from silofl_kernels.fields import FIELD_BITS, fields_per_word, pack_fields, unpack_fields
from silofl_kernels.low_rank import add_product
from silofl_kernels.masking import MaskSet, add_masks, quantize_and_mask
from silofl_kernels.max_abs import max_abs
from silofl_kernels.noise import add_noise, draw_noise
from silofl_kernels.noise_table import (
    LEAST_VARIANCE,
    MOST_VARIANCE,
    NOISE_ERROR,
    REACH,
    NoiseTable,
    discrete_gaussian,
    skellam,
)
from silofl_kernels.order import mean_around, median, trimmed_mean
from silofl_kernels.packing import pack_bits, packed_size, unpack_bits
from silofl_kernels.prg import KEY_BYTES, Prg
from silofl_kernels.quantize import Counts, dequantize, quantize
from silofl_kernels.random_k import RandomK
from silofl_kernels.reduce import reduce_rows, reduce_rows_dequantize, reduce_rows_float, scale_into
from silofl_kernels.ring import ring_bits, ring_dtype, ring_limit
from silofl_kernels.rotate import rotate, unrotate
from silofl_kernels.segments import Segments
from silofl_kernels.sparse import gather, scatter_add, top_k
from silofl_kernels.streams import Stream, keystream

register(np.ndarray, _cpu_kernels)

__all__ = [
    "CENTRED_VARIANCE",
    "FIELD_BITS",
    "FRACTION_BITS",
    "KEY_BYTES",
    "LEAST_VARIANCE",
    "MOST_VARIANCE",
    "NOISE_ERROR",
    "REACH",
    "Backend",
    "CountSketch",
    "Counts",
    "ExactFormat",
    "MaskSet",
    "NoiseTable",
    "Prg",
    "RandomK",
    "Segments",
    "Stream",
    "add_masks",
    "add_noise",
    "add_product",
    "code_dtype",
    "code_limit",
    "correlate_noise",
    "dequantize",
    "dequantize_blocks",
    "dequantize_segments",
    "discrete_gaussian",
    "draw_noise",
    "fields_per_word",
    "gather",
    "keystream",
    "max_abs",
    "mean_around",
    "median",
    "pack_bits",
    "pack_fields",
    "packed_size",
    "quantize",
    "quantize_and_mask",
    "quantize_blocks",
    "quantize_segments",
    "reduce_rows",
    "reduce_rows_dequantize",
    "reduce_rows_float",
    "register",
    "ring_bits",
    "ring_dtype",
    "ring_limit",
    "rotate",
    "scale_into",
    "scatter_add",
    "skellam",
    "sketch",
    "squared_distances",
    "top_k",
    "trimmed_mean",
    "unpack_bits",
    "unpack_fields",
    "unrotate",
    "unsketch",
]
