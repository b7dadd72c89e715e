"""The bench profile's events with other parties, of other sizes, or broken."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import orjson

from benchmarks.versions import ACCOUNT, ACCOUNTS, ASSETS, BROKER, MODEL, SERIAL, SITES, parties
from schemas.events import ACCESS
from stream.simulation.messages import Encoded


def among(block: Sequence[Encoded], versions: int, seed: int) -> list[Encoded]:
    """The block's events of the parties in `benchmarks.versions.batches(versions)`, each drawn at random.

    Who acts, under what and with which accelerators is drawn anew; what the block spoils stays spoilt.
    """
    draw = np.random.default_rng(seed)
    return [replace(stream, values=list(_among(stream.values, parties(versions), draw))) for stream in block]


def calls(block: Sequence[Encoded]) -> list[Encoded]:
    """The block's accesses with a party, as calls that say only what the contract requires, and the party."""
    return [
        replace(stream, values=[_call(value, number) for number, value in enumerate(stream.values)])
        for stream in block
        if stream.record == ACCESS.name
    ]


def padded(block: Sequence[Encoded], size: int) -> list[Encoded]:
    """The block's events, the shorter ones filled up to `size` bytes by a field that nobody knows."""
    return [replace(stream, values=[_padded(value, size) for value in stream.values]) for stream in block]


def thinned(block: Sequence[Encoded], each: int) -> list[Encoded]:
    """Every `each`-th event of every stream of the block."""
    return [Encoded(s.record, s.arrivals[::each], s.keys[::each], s.values[::each]) for s in block]


def broken(block: Sequence[Encoded], share: float, seed: int) -> list[Encoded]:
    """The block with this share of its events broken, in every way in turn."""
    draw = np.random.default_rng(seed)
    return [
        replace(stream, values=list(_broken(stream.values, draw.random(len(stream)) < share)))
        for stream in block
    ]


def _among(values: Sequence[bytes], known: int, draw: np.random.Generator) -> Iterator[bytes]:
    accounts = draw.integers(0, known * ACCOUNTS, len(values)).tolist()
    for value, account in zip(values, accounts, strict=True):
        event, party = orjson.loads(value), account // ACCOUNTS
        if "-9" not in event.get("authorization_id", "-9"):
            event["authorization_id"] = f"AUTH-{party}"
        if "party_id" in event:
            event["party_id"] = f"P-{party}"
        if ":guest-" not in event.get("principal", ":guest-"):
            event["principal"] = f"{ACCOUNT}{account}"
        if "P-9" not in event.get("broker_id", "P-9"):
            event["broker_id"] = BROKER
        if "serials" in event:
            numbers = draw.integers(0, known * ASSETS, len(event["serials"])).tolist()
            event["serials"] = [f"{SERIAL}{number}" for number in numbers]
        if event.get("site_id") in SITES:
            event["site_id"] = SITES[0]
        if "model" in event:
            event["model"] = MODEL
        yield orjson.dumps(event)


def _call(value: bytes, number: int) -> bytes:
    event = orjson.loads(value)
    party = int(event["principal"].removeprefix(ACCOUNT)) // ACCOUNTS if ACCOUNT in event["principal"] else 0
    kept = {"event_id": str(number), "occurred_at": event["occurred_at"][:19] + "Z", "source": "i"}
    return orjson.dumps(kept | {"action": "call", "party_id": f"P-{party}"})


def _padded(value: bytes, size: int) -> bytes:
    """Filled with hex digits, which compress by half."""
    missing = max(0, size - len(value) - len(b',"detail":""'))
    text = np.random.default_rng(len(value)).bytes(missing // 2 + 1).hex()[:missing]
    return value[:-1] + b',"detail":"' + text.encode() + b'"}'


def _broken(values: Iterable[bytes], chosen: np.ndarray) -> Iterator[bytes]:
    ways = 0
    for value, spoil in zip(values, chosen.tolist(), strict=True):
        yield _WAYS[ways % len(_WAYS)](value) if spoil else value
        ways += spoil


_WAYS: tuple[Callable[[bytes], bytes], ...] = (
    lambda value: value[:-9],  # cut off
    lambda value: value.replace(b'":"', b'":', 1),  # a text without its first quotation mark
    lambda value: re.sub(rb'"source":"[^"]*"', b'"source":7', value),  # of the wrong type
    lambda value: value[:-1] + b',"action":"call"}',  # named twice
    lambda value: value.replace(b'"source":"', b'"source":"\xff', 1),  # not UTF-8
    lambda value: value[:-1] + b',"rate":NaN}',  # no JSON
    lambda value: value.replace(b'"event_id"', b'"id"', 1),  # a required field is missing
)
