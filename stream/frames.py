"""A broker's answers, each received in one piece of memory of its size.

aiokafka reads through asyncio's streams, which receive a few hundred kilobytes at a time and copy them twice
while they hold the interpreter: a twentieth of a worker's time (benchmarks/README.md, "Worker"). Here an
answer's size is read first, and then the socket fills memory of that size.

`install` changes every connection that the process makes from then on. It rests on private names of the
pinned aiokafka (`CONNECTION_HOOKS`), and fails loudly when one of them has moved.
"""

import asyncio
import inspect
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from aiokafka import conn

CONNECTION_HOOKS = {
    "AIOKafkaProtocol": ("closed_fut", "args", "loop", "kw"),
    "AIOKafkaConnection._read": ("self_ref",),
    "AIOKafkaConnection._handle_frame": ("self", "resp"),
}
"""What is replaced or called and may change, with its parameters."""

_SIZE_BYTES = 4
_UpstreamProtocol: Any = conn.AIOKafkaProtocol


class FrameProtocol(_UpstreamProtocol, asyncio.BufferedProtocol):
    """aiokafka's protocol that receives whole answers, beside the stream's reader, which gets nothing."""

    def __init__(self, *args: Any, loop: asyncio.AbstractEventLoop, **named: Any) -> None:
        super().__init__(*args, loop=loop, **named)
        self._frames: deque[bytes] = deque()
        self._end: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._expect(_SIZE_BYTES, is_size=True)

    async def next_frame(self) -> bytes:
        """The next answer, without its size. Raises OSError or EOFError when none is to come."""
        while not self._frames:
            if self._end is not None:
                raise self._end
            self._waiting = self._loop.create_future()
            await self._waiting
        return self._frames.popleft()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the socket writes next."""
        return self._into[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """The socket has written so many bytes."""
        self._filled += nbytes
        if self._filled < len(self._into):
            return
        received = self._into.tobytes()
        if not self._is_size:
            self._frames.append(received)
            self._expect(_SIZE_BYTES, is_size=True)
            self._wake()
            return
        (size,) = struct.unpack(">i", received)
        if size > 0:
            self._expect(size, is_size=False)
        else:
            self._finish(ConnectionError(f"a broker's answer of {size} bytes"))
            self._transport.abort()

    def eof_received(self) -> bool | None:
        """The broker sends no more."""
        self._finish(EOFError("the broker has closed the connection"))
        keeps_open: bool | None = super().eof_received()
        return keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        """There is no connection any more."""
        self._finish(exc or EOFError("the connection is closed"))
        super().connection_lost(exc)

    def _expect(self, size: int, is_size: bool) -> None:
        self._into = memoryview(np.empty(size, np.uint8).data)
        self._filled, self._is_size = 0, is_size

    def _finish(self, end: Exception) -> None:
        self._end = self._end or end
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def install() -> None:
    """Let connections of this process receive whole answers; may be called again.

    Raises RuntimeError when a hook is not what this module was written against.
    """
    if conn.AIOKafkaProtocol is FrameProtocol:
        return
    for name, parameters in CONNECTION_HOOKS.items():
        found = conn
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is None or tuple(inspect.signature(found).parameters) != parameters:
            raise RuntimeError(f"aiokafka's conn.{name} has changed: adapt stream/frames.py")
    conn.AIOKafkaProtocol = FrameProtocol
    conn.AIOKafkaConnection._read = staticmethod(_read)


async def _read(self_ref: Callable[[], Any]) -> None:
    """Hands a connection its answers; as upstream, it keeps none alive while it waits."""
    connection = self_ref()
    if connection is None:
        return
    protocol = connection._protocol
    del connection
    while True:
        frame = await protocol.next_frame()
        connection = self_ref()
        if connection is None:
            return
        connection._handle_frame(frame)
        del connection
