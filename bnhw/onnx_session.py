"""Opening ONNX models with onnxruntime on the CPU."""

from typing import Any

from bnhw.errors import BadInput


def open_session(model: bytes, *, origin: str, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` of a serialised model. threads: None lets onnxruntime choose.

    Raises BadInput with `origin` (a file, or what the model was made of) where onnxruntime cannot load it.
    """
    import onnxruntime  # noqa: PLC0415  (slow to import, and needed for comparisons only)

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise BadInput(f"{origin}: onnxruntime cannot load it ({error})") from error
