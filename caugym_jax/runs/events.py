"""TensorBoard's event files, written in the calling thread and without a TensorBoard package.

A file is a sequence of records: the length of a message (8 bytes), that number's checksum (4), the
message and its checksum. A message is TensorFlow's `Event` in protobuf's wire format; the numbers
below are those of its fields (tensorflow/core/util/event.proto and core/framework/summary.proto).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LARGEST = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]  # of float32
DT_STRING = 7
START = 1  # a session's status


class EventFile:
    """One event file of `folder`; hides what earlier files hold from `first_step` on."""

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._file = (folder / f"{name}.{os.getpid()}.{first_step}").open("ab")
        self._write(_bytes(3, b"brain.Event:2"))
        self._write(_integer(2, first_step) + _bytes(7, _integer(1, START)))
        self._file.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve; values outside float32 become its largest."""
        for tag, value in values.items():
            near = struct.pack("<f", min(max(value, -LARGEST), LARGEST))
            self._summary(step, tag, _key(2, 5) + near)
        self._file.flush()

    def text(self, step: int, tag: str, markdown: str) -> None:
        one = _bytes(2, _integer(1, 1))  # one dimension of size 1
        self._tensor(step, f"{tag}/text_summary", b"text", one, markdown.encode())

    def layout(self, categories: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """The charts of the tab "Custom scalars" (plugins/custom_scalar/layout.proto).

        Args:
          categories: title -> chart's title -> regular expressions, each of curves' whole names.
        """
        message = _integer(1, 0)
        for title, charts in categories.items():
            category = _bytes(1, title.encode())
            for name, curves in charts.items():
                shown = b"".join(_bytes(1, f"^{curve}$".encode()) for curve in curves)
                category += _bytes(2, _bytes(1, name.encode()) + _bytes(2, shown))
            message += _bytes(2, category)
        self._tensor(0, "custom_scalars__config__", b"custom_scalars", b"", message)

    def _tensor(self, step: int, tag: str, plugin: bytes, shape: bytes, content: bytes) -> None:
        tensor = _integer(1, DT_STRING) + _bytes(2, shape) + _bytes(8, content)
        owner = _bytes(1, _bytes(1, plugin))
        self._summary(step, tag, _bytes(9, owner) + _bytes(8, tensor))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _summary(self, step: int, tag: str, value: bytes) -> None:
        summary = _bytes(1, _bytes(1, tag.encode()) + value)
        self._write(_integer(2, step) + _bytes(5, summary))

    def _write(self, event: bytes) -> None:
        message = _key(1, 1) + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(message))
        self._file.write(length + _checksum(length) + message + _checksum(message))


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _integer(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _crc_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli's polynomial, reversed
        table.append(crc)
    return table


_TABLE = _crc_table()


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted as the record format demands."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
