"""The engine in Verilog, its memory images, and what drives it under a simulator."""
