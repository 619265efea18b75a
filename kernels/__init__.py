"""Integer operations on arrays: packed 1-bit weights, bit-serial and multiplexer convolutions, pooling.

A leaf of the project: it knows arrays, not graphs, and imports numpy, numba, llvmlite and bitarray only.
`types` holds the values that operations take, `packing` the bit order, `reference` the semantics, `portable`
the fast operations, `select` the choice between kernels. Misuse raises ValueError.
"""
