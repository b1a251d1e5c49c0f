"""What makes no sense is refused at once, in a sentence that shows it."""

from __future__ import annotations

import inspect
from datetime import timedelta
from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.limits import LONGEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECEIVERS = [mpsr.Receiver, mpsr.AsyncReceiver]
PRODUCERS = [mpsr.Producer, mpsr.AsyncProducer]

SECONDS = "pass a number of seconds, 0 or more"
BYTES = "pass a whole number of bytes, as an int"
FUNCTION = "pass a function of one message, or None"

Refusal = tuple[str, Any, str]

WRONG_TYPES_FOR_BOTH: list[Refusal] = [
    ("type", 5, "type=5: choose one of stream, dgram, seqpacket"),
    ("type", ["stream"], "type=['stream']: choose one of stream, dgram, seqpacket"),
    ("max_message", "16M", f"max_message='16M': {BYTES}"),
    ("max_message", 1e6, f"max_message=1000000.0: {BYTES}"),
    ("max_message", True, f"max_message=True: {BYTES}"),
]
KNOWN = "native, length, length-le, octet-counted, lines, null, eof"
WRONG_VALUES_FOR_BOTH: list[Refusal] = [
    ("type", "tcp", "type='tcp': choose one of stream, dgram, seqpacket"),
    ("max_message", 0, "max_message=0: pass 1 to 4294967232 bytes"),
    ("max_message", 2**32, "max_message=4294967296: pass 1 to 4294967232 bytes"),
]
WRONG_TYPES_FOR_RECEIVERS: list[Refusal] = [
    *WRONG_TYPES_FOR_BOTH,
    ("mode", "660", "mode='660': write 0o660"),
    ("mode", "0o640", "mode='0o640': write 0o640"),
    ("mode", "rw-rw----", "mode='rw-rw----': pass a number like 0o660"),
    ("mode", None, "mode=None: pass a number like 0o660"),
    ("mode", True, "mode=True: pass a number like 0o660"),
    ("framing", 5, f"framing=5: choose one of auto, {KNOWN}"),
    ("group", 5.5, "group=5.5: pass the name or the id of a group, or None"),
    ("decode", 5, f"decode=5: {FUNCTION}"),
    ("decode", "utf-8", f"decode='utf-8': {FUNCTION}"),
    ("backlog", "5", "backlog='5': pass a whole number of connections, as an int"),
    ("max_connections", 5.0, "max_connections=5.0: pass a whole number of connections, as an int"),
    ("max_rate_per_uid", 0.5, "max_rate_per_uid=0.5: pass a whole number of messages, as an int"),
    ("max_rings_per_uid", None, "max_rings_per_uid=None: pass a whole number of rings, as an int"),
    ("journal", 5, "journal=5: pass a path, or None"),
    ("journal_limit", "1G", f"journal_limit='1G': {BYTES}"),
]
WRONG_VALUES_FOR_RECEIVERS: list[Refusal] = [
    *WRONG_VALUES_FOR_BOTH,
    (
        "max_message",
        4071,
        (
            "max_message=4071 is too small for native producers: a native message may have 4072 "
            "bytes in any case; pass max_message=4072 or more, or framing= of a foreign protocol"
        ),
    ),
    ("mode", 660, "mode=660 is 0o1224: write 0o660"),
    ("mode", 600, "mode=600 is 0o1130: write 0o600"),
    ("mode", 0o200, "mode=0o200 denies its owner to read or to write; pass one like 0o660"),
    ("mode", 0o466, "mode=0o466 denies its owner to read or to write; pass one like 0o660"),
    ("mode", 0o1660, "mode=0o1660 is no set of permissions; pass one like 0o660"),
    ("framing", "line", f"framing='line': choose one of auto, {KNOWN}"),
    ("backlog", 0, "backlog=0: pass 1 to 2147483647 connections"),
    ("backlog", 2**31, "backlog=2147483648: pass 1 to 2147483647 connections"),
    ("max_connections", -1, "max_connections=-1: pass 1 or more connections"),
    (
        "max_connections_per_uid",
        0,
        "max_connections_per_uid=0: pass 1 or more connections",
    ),
    ("max_bytes_per_uid", 0, "max_bytes_per_uid=0: pass 1 or more bytes"),
    ("max_rate_per_uid", 0, "max_rate_per_uid=0: pass 1 or more messages"),
    ("max_rings_per_uid", -1, "max_rings_per_uid=-1: pass 0 or more rings"),
    ("journal_limit", 0, "journal_limit=0: pass 1 or more bytes"),
]
WRONG_TYPES_FOR_PRODUCERS: list[Refusal] = [
    *WRONG_TYPES_FOR_BOTH,
    ("framing", 5, f"framing=5: choose one of {KNOWN}"),
    ("on_full", None, "on_full=None: choose one of block, raise, drop_newest, drop_oldest"),
    ("encode", 5, f"encode=5: {FUNCTION}"),
    ("label", 5, "label=5: pass text (str), or None"),
    ("buffer", "1M", f"buffer='1M': {BYTES}"),
    ("buffer", b"x" * 1000, f"buffer=b'xxxxxxxxxxx...xxxxxxxxxxxxx': {BYTES}"),
    ("linger", "x", f"linger='x': {SECONDS}"),
    ("linger", None, f"linger=None: {SECONDS}"),
    ("timeout", "5", f"timeout='5': {SECONDS}, or None"),
    ("timeout", True, f"timeout=True: {SECONDS}, or None"),
    ("timeout", timedelta(1), f"timeout=datetime.timedelta(days=1): {SECONDS}, or None"),
    ("spool", 5, "spool=5: pass a path, or None"),
]
WRONG_VALUES_FOR_PRODUCERS: list[Refusal] = [
    *WRONG_VALUES_FOR_BOTH,
    ("framing", "auto", f"framing='auto': choose one of {KNOWN}"),
    ("on_full", "drop", "on_full='drop': choose one of block, raise, drop_newest, drop_oldest"),
    ("buffer", 0, "buffer=0: pass 1 or more bytes"),
    ("linger", -1, f"linger=-1: {SECONDS}"),
    ("linger", inf, f"linger=inf: {SECONDS}"),
    ("timeout", -1, f"timeout=-1: {SECONDS}, or None"),
    ("timeout", nan, f"timeout=nan: {SECONDS}, or None"),
    ("timeout", inf, f"timeout=inf: {SECONDS}, or None"),
]


@pytest.mark.parametrize(
    ("kinds", "refusals", "error"),
    [
        pytest.param(RECEIVERS, WRONG_TYPES_FOR_RECEIVERS, mpsr.WrongType, id="receivers, types"),
        pytest.param(
            RECEIVERS, WRONG_VALUES_FOR_RECEIVERS, mpsr.ConfigurationError, id="receivers, values"
        ),
        pytest.param(PRODUCERS, WRONG_TYPES_FOR_PRODUCERS, mpsr.WrongType, id="producers, types"),
        pytest.param(
            PRODUCERS, WRONG_VALUES_FOR_PRODUCERS, mpsr.ConfigurationError, id="producers, values"
        ),
    ],
)
def test_a_wrong_argument_is_named_and_shown(
    kinds: list[Callable[..., Any]],
    refusals: list[Refusal],
    error: type[mpsr.ConfigurationError],
    address: str,
) -> None:
    for kind in kinds:
        for name, value, sentence in refusals:
            with pytest.raises(error) as caught:
                kind(address, **{name: value})
            assert (str(caught.value), type(caught.value)) == (sentence, error)


@pytest.mark.parametrize("kind", [*RECEIVERS, *PRODUCERS])
@pytest.mark.parametrize("address", [5, None, [b"a", 5]])
def test_what_is_no_text_is_no_address(kind: Callable[..., Any], address: object) -> None:
    with pytest.raises(mpsr.WrongType) as caught:
        kind(address)
    wrong = 5 if isinstance(address, list) and kind in RECEIVERS else address
    assert str(caught.value) == f"address={wrong!r}: pass a path, '@name' or 'fd:N'"


def test_a_wrong_type_is_a_value_error_and_a_type_error() -> None:
    assert issubclass(mpsr.WrongType, (ValueError,))
    assert issubclass(mpsr.WrongType, (TypeError,))


@pytest.mark.parametrize("kind", [*RECEIVERS, *PRODUCERS])
def test_an_unknown_keyword_is_named(kind: Callable[..., Any], address: str) -> None:
    with pytest.raises(TypeError, match="max_mesage"):
        kind(address, max_mesage=5)


@pytest.mark.parametrize(
    ("kinds", "socket_type", "refused", "known"),
    [
        (RECEIVERS, "dgram", ["native", "length", "eof"], "auto, packet, lines, null"),
        (RECEIVERS, "seqpacket", ["length", "eof"], "auto, native, packet, lines, null"),
        (PRODUCERS, "dgram", ["native", "lines", "eof"], "packet"),
        (PRODUCERS, "seqpacket", ["lines", "eof"], "native, packet"),
    ],
)
def test_types_of_sockets_have_framings_of_their_own(
    kinds: list[Callable[..., Any]], socket_type: str, refused: list[str], known: str, address: str
) -> None:
    for kind in kinds:
        for framing in refused:
            with pytest.raises(mpsr.ConfigurationError) as caught:
                kind(address, type=socket_type, framing=framing)
            assert str(caught.value) == (
                f"framing={framing!r} has no use with type={socket_type!r}; "
                f"choose one of {known}, or leave it out"
            )


def test_nothing_is_made_for_a_receiver_that_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(mpsr.ConfigurationError, match="mode=660"):
        mpsr.Receiver(address, journal=tmp_path / "events.journal", mode=660)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_other_types_are_numbers(address: str) -> None:
    class Number:
        def __index__(self) -> int:
            return 1_000_000

    number: Any = Number()
    with mpsr.Producer[bytes](address, buffer=number, max_message=number) as producer:
        assert producer.try_send(b"x" * 1000)
        with pytest.raises(mpsr.MessageTooLarge):
            producer.send(b"x" * 1_000_001)
        with mpsr.Receiver(address, max_message=number) as receiver:
            assert receiver.receive(5) == b"x" * 1000


@pytest.mark.parametrize("timeout", [LONGEST_TIMEOUT, 1e300, 10**400])
def test_a_time_out_of_ages_is_one(timeout: float, address: str) -> None:
    with (
        mpsr.Receiver(address) as receiver,
        mpsr.Producer[bytes](address, timeout=timeout) as producer,
    ):
        producer.send(b"message", timeout=timeout)
        assert receiver.receive(timeout) == b"message"
        receiver.acknowledge()
        producer.flush(timeout)
        producer.close(timeout)


def test_the_signature_says_what_a_left_out_time_out_stands_for() -> None:
    assert "timeout: 'float | Own | None' = the producer's own timeout" in str(
        inspect.signature(mpsr.Producer.send)
    )
