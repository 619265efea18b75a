"""Whole programs in one compiled call: a table of integers, an arena of activations, and its interpreters.

`fields` is the format of the table, `vectors`, `amx`, `vnni`, `avx2` and `portable` the instructions, `rows` and
`winograd` convolutions without tiles, plain and transformed, `tail` what follows one without leaving the cache, `steps`
everything else, and `run_*` the interpreters. Nothing is checked at run time: whoever makes the table (`bnhw.plan`)
answers for it. Import `run_*` only where `bnhw.kernels.select` says that the machine has the instructions; an
unknown instruction ends the process.
"""
