"""Hold both ends to the test vectors: whole, byte by byte, and with more behind them."""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from collections.abc import Callable, Iterable

import pytest

from mpsr.batch import ProducerIdentity
from mpsr.errors import Rejected, RemoteProtocolError
from mpsr.forwarding import MAGIC, Forwarded, forwarded
from mpsr.limits import MAX_MESSAGE
from mpsr.wire.frames import Hello, Observe, Reject, RejectCode
from mpsr.wire.framing import Framing
from mpsr.wire.ledger import Ledger
from mpsr.wire.observing import ObservingSession, SampleSeen, StatusSeen
from mpsr.wire.sending import Acknowledged, SendingSession, Welcomed
from tests.fuzz.feeding import length_together
from tests.wire.pair import UID, Dropped, Messages, ReceiverEnd, Understood, bytewise, frames_in
from tests.wire.vectors import (
    CONNECTIONS,
    FOREIGN,
    FORWARDED,
    OBSERVING,
    RECEIVING,
    SENDING,
    VECTORS,
    Vector,
    load,
    read,
    unhex,
)

Cut = Callable[[bytes], list[bytes]]


def is_whole(vector: Vector) -> bool:
    """Tell whether nothing is begun at the vector's end, which what follows would complete."""
    begun = vector["name"].startswith(("cut-", "native-one"))
    return not (begun or vector["at_end"]["understood"] or vector["at_end"]["error"])


def expected(items: Iterable[Vector]) -> list[Understood]:
    understood: list[Understood] = []
    for item in items:
        match item:
            case {"hello": {"producer_id": producer_id, "lowest_seq": lowest, "label": label}}:
                understood.append(Hello(bytes.fromhex(producer_id), lowest, label))
            case {"first_seq": first_seq, "messages": messages}:
                understood.append(Messages(first_seq, list(map(unhex, messages))))
            case {"observe": asked}:
                understood.append(Observe(**asked))
            case {"lost": count}:
                understood.append(Dropped(count))
            case _:
                raise AssertionError(item)
    return understood


def receiver_for(vector: Vector) -> ReceiverEnd:
    """Return a receiver that knows of the producer what the vector says."""
    ledger = Ledger()
    if "known" in vector:
        producer_id = bytes.fromhex(vector["understood"][0]["hello"]["producer_id"])
        producer_state = ledger.open(UID, ProducerIdentity(producer_id, ""), 0, 0.0)
        for name, value in vector["known"].items():
            setattr(producer_state, name, value)
        ledger.gone(producer_state, 0.0, orderly=False)
    framing: Framing = vector["framing"]
    return ReceiverEnd(
        framing, max_message=vector.get("max_message", MAX_MESSAGE), ledger=ledger
    )  # fmt: skip


def code_of(error: RemoteProtocolError | None) -> int | None:
    return None if error is None else error.code


def check(end: ReceiverEnd, vector: Vector) -> None:
    """Compare what was understood before the end of the stream."""
    assert end.understood == expected(vector["understood"])
    assert code_of(end.error) == vector["error"]
    answer = unhex(vector["answer"])
    assert end.sent.startswith(answer)
    rest = frames_in(end.sent[len(answer) :])
    codes = [frame.code for frame in rest if isinstance(frame, Reject)]
    assert len(codes) == len(rest)
    assert codes == ([vector["error"]] if vector["rejects"] else [])
    if "detected" in vector:
        assert end.session.framing == vector["detected"]


def whole(data: bytes) -> list[bytes]:
    return [data]


@pytest.mark.parametrize("cut", [whole, bytewise])
@pytest.mark.parametrize("vector", load(*RECEIVING))
def test_receiver_understands_each_vector_however_it_is_cut(vector: Vector, cut: Cut) -> None:
    """Bytes mean the same whole and byte by byte, up to the end of the stream."""
    end = receiver_for(vector)
    end.feed_all(length_together(cut(unhex(vector["bytes"]))))
    check(end, vector)
    end.error = None
    end.finish()
    at_end = vector["at_end"]
    assert end.understood == joined(vector["understood"], at_end["understood"])
    assert end.orderly is at_end["orderly"]
    assert code_of(end.error) == at_end["error"]
    if "detected" in at_end:
        assert end.session.framing == at_end["detected"]


def joined(before: list[Vector], after: list[Vector]) -> list[Understood]:
    """Return all that is understood, with messages that follow each other in one."""
    understood = expected(before)
    for item in expected(after):
        last = understood[-1] if understood else None
        if isinstance(item, Messages) and isinstance(last, Messages):
            last.bodies.extend(item.bodies)
        else:
            understood.append(item)
    return understood


@pytest.mark.parametrize("vector", load("native", take=is_whole))
def test_trailing_bytes_change_nothing_in_native(vector: Vector) -> None:
    """A frame that has begun behind a vector waits; behind an error, nothing matters."""
    end = receiver_for(vector)
    tail = b"\x04\0\0\0\x07"
    end.feed(unhex(vector["bytes"]) + tail)
    check(end, vector)
    if vector["error"] is None:
        assert end.session.pending == len(tail)
    else:
        end.feed(b"more")
        check(end, vector)


@pytest.mark.parametrize("vector", load(*FOREIGN[:-1], take=is_whole))
def test_trailing_bytes_change_nothing_in_foreign_framings(vector: Vector) -> None:
    """A message that has begun behind a vector waits; behind an error, nothing matters."""
    end = receiver_for(vector)
    tail = {"length": b"\0\0\1", "length-le": b"\1\0\0", "octet-counted": b"4 ta"}.get(
        vector["framing"], b"tail"
    )
    end.feed(unhex(vector["bytes"]) + tail)
    check(end, vector)
    if vector["error"] is None:
        assert end.session.pending == len(tail)
    else:
        end.feed(b"more")
        check(end, vector)


@pytest.mark.parametrize("cut", [whole, bytewise])
@pytest.mark.parametrize("vector", load(*CONNECTIONS))
def test_receiver_understands_connections_that_follow_each_other(vector: Vector, cut: Cut) -> None:
    """A producer that returns goes on where the receiver stands."""
    ledger = Ledger()
    ends: dict[int, ReceiverEnd] = {}
    told: dict[int, list[Vector]] = defaultdict(list)
    for step in vector["steps"]:
        if "restart" in step:
            ledger = Ledger()
            continue
        end = ends.setdefault(step["on"], ReceiverEnd("native", ledger=ledger))
        sent = len(end.sent)
        match step:
            case {"bytes": terms}:
                end.feed_all(cut(unhex(terms)))
                told[step["on"]] += step["understood"]
            case {"accepts": seq}:
                end.accept(seq)
            case {"ends": {"orderly": orderly}}:
                end.finish()
                assert end.orderly is orderly
        assert end.understood == joined([], told[step["on"]])
        assert end.sent[sent:] == unhex(step.get("answer", ""))
        assert code_of(end.error) in (None, RejectCode.FENCED)
        if "fences" in step:
            older = ends[step["fences"]]
            (*_, last) = frames_in(older.sent)
            assert isinstance(last, Reject)
            assert last.code == code_of(older.error) == RejectCode.FENCED


@pytest.mark.parametrize("cut", [whole, bytewise])
@pytest.mark.parametrize("vector", load(*SENDING))
def test_producer_understands_each_vector_however_it_is_cut(vector: Vector, cut: Cut) -> None:
    """Answers mean the same whole and byte by byte."""
    session = SendingSession(
        bytes.fromhex(vector["producer_id"]), vector["lowest_seq"], vector["label"]
    )
    assert session.data_to_send() == unhex(vector["opens_with"])
    told: list[Vector] = []
    error: RemoteProtocolError | None = None
    for step in vector["steps"]:
        match step:
            case {"sends": end_seq}:
                session.sent(end_seq)
            case {"bye": terms}:
                session.bye()
                assert session.data_to_send() == unhex(terms)
            case {"receive": terms}:
                error = feed(session, cut(unhex(terms)))
        for event in session.events_received():
            match event:
                case Welcomed(expected_seq, max_message, _):
                    told.append({"expected_seq": expected_seq, "max_message": max_message})
                case Acknowledged(seq):
                    told.append({"accepted": seq})
    assert told_at_last(told) == told_at_last(vector["understood"])
    assert code_of(error) == vector["error"]
    assert isinstance(error, Rejected) is (vector["rejected"] is not None)
    if vector["rejected"] is not None:
        text = f"the receiver refused this producer: {vector['rejected']}"
        assert str(error) == text.removesuffix(": ")
    assert session.data_to_send() == b""


def told_at_last(told: list[Vector]) -> list[Vector]:
    """Acknowledgements say all together what the highest says: how many tell it is left open."""
    result: list[Vector] = []
    for event in told:
        if result and "accepted" in event and "accepted" in result[-1]:
            result[-1] = {"accepted": max(event["accepted"], result[-1]["accepted"])}
        else:
            result.append(event)
    return result


def feed(session: SendingSession, pieces: list[bytes]) -> RemoteProtocolError | None:
    try:
        for piece in pieces:
            session.receive_data(memoryview(piece))
    except RemoteProtocolError as exc:
        return exc
    return None


@pytest.mark.parametrize("cut", [whole, bytewise])
@pytest.mark.parametrize("vector", load(*OBSERVING))
def test_observer_understands_each_vector_however_it_is_cut(vector: Vector, cut: Cut) -> None:
    """Behind a REJECT, or what is malformed, nothing is understood."""
    session = ObservingSession(vector["interval"], vector["rate"], vector["clip"])
    assert session.opening == unhex(vector["opens_with"])
    told: list[Vector] = []
    error: int | None = None
    rejected: str | None = None
    try:
        for piece in [*cut(unhex(vector["receive"])), b""]:
            session.receive_data(piece)
    except RemoteProtocolError as exc:
        error = exc.code
    for seen in session.events_received():
        match seen:
            case StatusSeen(document):
                told.append({"status": document})
            case SampleSeen(head, body):
                told.append({"head": head, "body": body})
            case Reject(code, text):
                error, rejected = code, text
    wanted = [
        {**each, "body": unhex(each["body"])} if "body" in each else each
        for each in vector["understood"]
    ]
    assert told == wanted
    assert (error, rejected) == (vector["error"], vector["rejected"])


@pytest.mark.parametrize("vector", load(*FORWARDED))
def test_origins_are_found(vector: Vector) -> None:
    """A message with an origin of the described form is separated from it; others are unchanged."""
    found = forwarded(unhex(vector["bytes"]))
    assert found == Forwarded(unhex(vector["body"]), vector["origin"])
    if found.origin is not None:
        assert forwarded(claimed(found, vector["origin"])) == found


def claimed(found: Forwarded, origin: Vector) -> bytes:
    """Return the message as the next funnel would find it, had it this origin."""
    text = json.dumps(origin, ensure_ascii=False).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + found.body


def test_committed_vectors_are_what_the_script_lays_out() -> None:
    """tests/vectors/make.py writes exactly the files that are committed."""
    spec = importlib.util.spec_from_file_location("make_vectors", VECTORS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    written = {name: make.render(vectors) for name, vectors in make.files().items()}
    there = {path.name: path.read_text(encoding="utf-8") for path in VECTORS.glob("*.json")}
    assert written == there


@pytest.mark.parametrize("name", [*RECEIVING, *CONNECTIONS, *SENDING, *OBSERVING, *FORWARDED])
def test_vectors_have_names_of_their_own(name: str) -> None:
    """A vector can be referred to by its file and name."""
    names = [vector["name"] for vector in read(name)]
    assert len(set(names)) == len(names)
