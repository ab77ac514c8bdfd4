"""What tests of reading images share."""

import struct
import zlib
from pathlib import Path

import pytest


@pytest.fixture
def large_image(tmp_path) -> Path:
    """``large.png``, which says that it has 30,000 x 30,000 px."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack('>I', zlib.crc32(kind + content))
        return struct.pack('>I', len(content)) + kind + content + checksum

    header = struct.pack('>IIBBBBB', 30_000, 30_000, 8, 2, 0, 0, 0)
    signature = bytes.fromhex('89504e470d0a1a0a')
    path = tmp_path / 'large.png'
    path.write_bytes(signature + chunk(b'IHDR', header) + chunk(b'IDAT', b'') + chunk(b'IEND', b''))
    return path
