"""Which sources compiled code was made of: what names the caches of it."""

from hashlib import blake2b
from pathlib import Path

SOURCES_DIGEST = blake2b(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))), digest_size=6
).hexdigest()
"""Names the caches on disk, so that code compiled from older sources of this folder or those in it is never loaded."""
