"""bnhw: a hardware-oriented inference compiler and simulator for networks with 1-bit weights.

>>> import bnhw
>>> program = bnhw.compile("model.onnx", calibration=images, options=bnhw.CompileOptions(act_bits=8))
>>> program.save("model.bnhw")
>>> result = bnhw.run(bnhw.load("model.bnhw"), images)
"""

from bnhw.api import compile, load, program_to_onnx, report, run  # noqa: A004  (bnhw.compile is what users expect)
from bnhw.errors import BnhwError
from bnhw.options import CompileOptions
from bnhw.version import __version__

__all__ = ["BnhwError", "CompileOptions", "__version__", "compile", "load", "program_to_onnx", "report", "run"]
