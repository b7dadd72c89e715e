"""Answers of a broker arrive whole however they are cut, over TLS too, and a connection's end is told."""

import asyncio
import os
import shutil
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiokafka import conn
from hypothesis import given, settings
from hypothesis import strategies as st

from stream import fetches, frames
from stream.frames import FrameProtocol

Writer = Callable[[asyncio.StreamWriter], Any]


@asynccontextmanager
async def connected(
    write: Writer, server_tls: ssl.SSLContext | None = None, client_tls: ssl.SSLContext | None = None
) -> AsyncIterator[FrameProtocol]:
    """The protocol of a connection to a server that writes something."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write(writer)
        writer.close()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader = asyncio.StreamReader(loop=loop)
        closed = loop.create_future()
        transport, protocol = await loop.create_connection(
            lambda: FrameProtocol(closed, reader, loop=loop), "127.0.0.1", port, ssl=client_tls
        )
        try:
            yield protocol
        finally:
            transport.close()
            await asyncio.wait_for(closed, 5)


def pieces(answers: Sequence[bytes], cuts: Sequence[int]) -> list[bytes]:
    """The answers with their sizes, cut at some places."""
    data = b"".join(struct.pack(">i", len(answer)) + answer for answer in answers)
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


def writing(parts: Sequence[bytes]) -> Writer:
    async def write(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return write


async def received(protocol: FrameProtocol, count: int) -> list[bytes]:
    return [await asyncio.wait_for(protocol.next_frame(), 5) for _ in range(count)]


ANSWERS = st.lists(st.one_of(st.binary(min_size=1, max_size=20), st.just(b"x" * 100_000)), max_size=6)


@settings(max_examples=60, deadline=None)
@given(ANSWERS, st.lists(st.integers(0, 1 << 20), max_size=12))
def test_answers_arrive_whole_however_they_are_cut(answers: list[bytes], cuts: list[int]) -> None:
    async def run() -> None:
        async with connected(writing(pieces(answers, cuts))) as protocol:
            assert await received(protocol, len(answers)) == answers
            with pytest.raises(EOFError):
                await asyncio.wait_for(protocol.next_frame(), 5)

    asyncio.run(run())


@pytest.mark.skipif(
    shutil.which("openssl") is None and os.environ.get("CI") != "true",
    reason="openssl makes the certificate, and is missing",
)
def test_answers_arrive_whole_over_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60
    )
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate, key)
    client.load_verify_locations(certificate)
    client.check_hostname = False
    answers = [b"a", bytes(range(256)) * 8192, b"b" * 70_000, b"c"]

    async def run() -> None:
        write = writing(pieces(answers, [5, 6, 1 << 19, 1 << 20]))
        async with connected(write, server, client) as protocol:
            assert await received(protocol, len(answers)) == answers
            with pytest.raises(EOFError):
                await asyncio.wait_for(protocol.next_frame(), 5)

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\5abc"])
def test_a_connection_that_ends_within_an_answer_is_told(sent: bytes) -> None:
    async def run() -> None:
        async with connected(writing([sent] if sent else [])) as protocol:
            with pytest.raises(EOFError):
                await asyncio.wait_for(protocol.next_frame(), 5)

    asyncio.run(run())


@pytest.mark.parametrize("size", [0, -1])
def test_an_answer_without_a_size_ends_the_connection(size: int) -> None:
    async def run() -> None:
        async with connected(writing([struct.pack(">i", size) + b"more"])) as protocol:
            with pytest.raises(ConnectionError, match=f"answer of {size} bytes"):
                await asyncio.wait_for(protocol.next_frame(), 5)

    asyncio.run(run())


def test_a_connection_of_aiokafka_is_closed_when_its_broker_goes() -> None:
    fetches.install()
    assert conn.AIOKafkaProtocol is FrameProtocol

    async def run() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            await reader.readexactly(size)  # the request for versions, which is never answered
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(conn.Errors.KafkaConnectionError):
                await asyncio.wait_for(conn.create_conn("127.0.0.1", port, max_idle_ms=None), 5)

    asyncio.run(run())


@pytest.mark.parametrize("name", list(frames.CONNECTION_HOOKS))
def test_a_moved_hook_of_a_connection_fails_loudly(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def moved() -> None:
        pass

    monkeypatch.setattr(conn, "AIOKafkaProtocol", frames._UpstreamProtocol)
    owner, _, attribute = name.rpartition(".")
    monkeypatch.setattr(getattr(conn, owner) if owner else conn, attribute, moved)
    with pytest.raises(RuntimeError, match=f"conn.{name} has changed"):
        frames.install()
