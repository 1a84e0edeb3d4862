# SPDX-License-Identifier: Apache-2.0
"""Image data: recognisable, of a known format, and compressed or converted as a test wants."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

MIB = 1 << 20


def raw(size: int = MIB) -> bytes:
    """Bytes that no format's magic number matches."""
    return b"raw image" + os.urandom(size - 9)


def zipped(data: bytes) -> bytes:
    """As image_decompression takes it."""
    return gzip.compress(data, compresslevel=1)


def qcow2(data: bytes, directory: Path) -> bytes:
    """As image_conversion takes it; the size must be a multiple of 512."""
    if not os.environ.get("CI") and not shutil.which("qemu-img"):
        pytest.skip("qemu-img is not installed")
    plain, converted = directory / "plain", directory / "converted"
    plain.write_bytes(data)
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(plain), str(converted)], check=True
    )
    return converted.read_bytes()
