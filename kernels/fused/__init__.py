"""Whole programs in one compiled call: a table of integers, an arena of activations, and its interpreters.

`fields` is the format of the table, `weights` the order of weights that tiles want, `vectors`, `amx` and `vnni`
the instructions, `tail` what follows a convolution without leaving the cache, `steps` everything else, and
`run_amx` and `run_vnni` the interpreters. Nothing is checked at run time: whoever makes the table (`bnhw.plan`)
answers for it. Import `run_*` only where `bnhw.kernels.select` says that the machine has the instructions; an
unknown instruction ends the process.
"""
