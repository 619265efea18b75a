"""Training, checkpoints and export to ONNX: the only part of bnhw that imports torch.

Nothing is re-exported here; take names from the module that defines them:

    from bnhw.export.checkpoints import load_checkpoint, save_checkpoint
    from bnhw.export.to_onnx import to_onnx

Importing this package raises `bnhw.errors.MissingDependency` where torch is not installed.
"""

from importlib.util import find_spec

from bnhw.errors import MissingDependency

if find_spec("torch") is None:
    raise MissingDependency(
        "bnhw.export trains, loads and exports networks with torch, which is not installed; "
        "install it with: pip install 'bnhw[torch]'"
    )
