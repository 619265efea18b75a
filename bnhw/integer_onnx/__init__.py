"""An integer program as a standard ONNX graph of integers: the second executor of the equality chain.

`model` says what the graph looks like from outside, `instructions` what each instruction becomes, and `builder`
holds the graph while it is written.
"""

from bnhw.integer_onnx.model import program_to_onnx

__all__ = ["program_to_onnx"]
