"""Writing files so that a killed process leaves the old file or the new one, and the name put into them."""

import os
import tempfile
from importlib import metadata
from pathlib import Path

from bnhw.errors import BadInput


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name beside `path`, flush to disk, rename. Raises `BadInput` where that fails."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise BadInput(
            f"{path}: cannot be written ({error.strerror}); give a path in an existing folder that you may write to"
        ) from error
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def producer() -> str:
    """ "bnhw <version>", written into every file."""
    return f"bnhw {metadata.version('bnhw')}"
