"""Feed a producer what a receiver answers: it understands the same, however it is cut."""

from __future__ import annotations

from typing import Any, Final

from mpsr.errors import RemoteProtocolError
from mpsr.wire.sending import Acknowledged, SendingSession, Welcomed
from mpsr.wire.transitions import State
from tests.fuzz.feeding import Source, cut

PRODUCER_ID: Final = bytes(range(16))


def feed(kind: int, pieces: list[bytes]) -> tuple[Any, ...]:
    """Feed a session; return what it understood, and what it refused."""
    lowest_seq = kind >> 4
    session = SendingSession(PRODUCER_ID, lowest_seq, "", takes_ring=bool(kind & 1))
    told: list[Any] = []
    accepted = 0
    error: tuple[Any, ...] = ()
    for piece in pieces:
        try:
            session.receive_data(memoryview(bytearray(piece)))
        except RemoteProtocolError as exc:
            assert session.state is State.FAILED
            error = type(exc), int(exc.code), str(exc)
        for event in session.events_received():
            match event:
                case Welcomed(expected_seq, max_message, _):
                    assert expected_seq >= lowest_seq
                    assert max_message > 0
                    told.append(event)
                case Acknowledged(seq):
                    accepted = max(accepted, seq)
                case _:
                    told.append(event)
        if error:
            break
        assert session.state in {State.GREETED, State.OPEN}
    return told, accepted, error, session.data_to_send()


def run(data: bytes) -> None:
    """Feed a session in pieces, and another in one."""
    source = Source(data)
    kind, sizes = source.number(), source.sizes()
    stream = source.rest()
    if sizes and stream:
        assert feed(kind, list(cut(stream, sizes))) == feed(kind, [stream])
    else:
        feed(kind, [stream])
