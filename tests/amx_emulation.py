"""A plugin of pytest for processes in which `amx_emulator.c` is preloaded: this machine has AMX."""

from bnhw.kernels import select

_HOST = select.host_features()
select.host_features = lambda: _HOST | {"amx-int8", "amx-tile"}  # type: ignore[assignment]  # the cached function
