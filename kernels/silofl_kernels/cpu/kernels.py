"""What the CPU offers: a `Backend` as a module, for numpy.ndarray."""

from silofl_kernels.cpu.blockwise import (
    dequantize_blocks,
    dequantize_segments,
    quantize_blocks,
    quantize_segments,
)
from silofl_kernels.cpu.correlated import correlate_noise
from silofl_kernels.cpu.count_sketch import sketch, unsketch
from silofl_kernels.cpu.distances import squared_distances
from silofl_kernels.cpu.exact import decode_exact, encode_exact
from silofl_kernels.cpu.fields import pack_fields, unpack_fields
from silofl_kernels.cpu.low_rank import add_product
from silofl_kernels.cpu.masking import add_masks
from silofl_kernels.cpu.max_abs import max_abs
from silofl_kernels.cpu.noise import add_noise, draw_noise
from silofl_kernels.cpu.order import mean_around, sorted_mean
from silofl_kernels.cpu.packing import pack_bits, unpack_bits
from silofl_kernels.cpu.quantize import dequantize, quantize, quantize_and_mask
from silofl_kernels.cpu.random_k import random_k
from silofl_kernels.cpu.reduce import reduce_rows, reduce_rows_dequantize, reduce_rows_float, scale_into
from silofl_kernels.cpu.rotate import rotate, unrotate
from silofl_kernels.cpu.sparse import gather, largest_index, scatter_add
from silofl_kernels.cpu.streams import keystream
from silofl_kernels.cpu.top_k import top_k

__all__ = [
    "add_masks",
    "add_noise",
    "add_product",
    "correlate_noise",
    "decode_exact",
    "dequantize",
    "dequantize_blocks",
    "dequantize_segments",
    "draw_noise",
    "encode_exact",
    "gather",
    "keystream",
    "largest_index",
    "max_abs",
    "mean_around",
    "pack_bits",
    "pack_fields",
    "quantize",
    "quantize_and_mask",
    "quantize_blocks",
    "quantize_segments",
    "random_k",
    "reduce_rows",
    "reduce_rows_dequantize",
    "reduce_rows_float",
    "rotate",
    "scale_into",
    "scatter_add",
    "sketch",
    "sorted_mean",
    "squared_distances",
    "top_k",
    "unpack_bits",
    "unpack_fields",
    "unrotate",
    "unsketch",
]
