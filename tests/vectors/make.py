"""Write the test vectors: bytes laid out by hand, and what each must mean.

It shares no code with the library, so that neither can repeat the other's mistake. Run it after a
change, read the difference, and commit both: ``python tests/vectors/make.py``.

Bytes are written as hex terms with spaces between them; ``61*100`` is a term repeated.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent

Json = dict[str, Any]

U32_MOST: Final = 0xFFFF_FFFF
SEQ_MOST: Final = 2**63 - 1
U64_MOST: Final = 2**64 - 1
MIB: Final = 1024 * 1024
MAX_MESSAGE: Final = 16 * MIB
MAX_FRAME: Final = MAX_MESSAGE + 24

HELLO, WELCOME, BATCH, LOST, ACK, REJECT, BYE = range(1, 8)
VERSION, MALFORMED, UNEXPECTED, GAP, TOO_LARGE, FENCED, BUSY, DEADLINE = range(1, 9)

PREFACE: Final = "894d5053520d0a01"
ID: Final = "000102030405060708090a0b0c0d0e0f"


# -- laying out bytes -----------------------------------------------------------------------


def u8(value: int) -> str:
    return struct.pack("<B", value).hex()


def u16(value: int) -> str:
    return struct.pack("<H", value).hex()


def u32(value: int) -> str:
    return struct.pack("<I", value).hex()


def u64(value: int) -> str:
    return struct.pack("<Q", value).hex()


def big32(value: int) -> str:
    return struct.pack(">I", value).hex()


def text(value: str) -> str:
    return value.encode().hex()


def terms(*parts: str) -> str:
    """Join terms; empty ones vanish."""
    return " ".join(part for part in parts if part)


def size(expression: str) -> int:
    """Return how many bytes the terms stand for."""
    total = 0
    for term in expression.split():
        digits, _, repeat = term.partition("*")
        total += len(digits) // 2 * int(repeat or 1)
    return total


def header(length: int, kind: int, flags: int = 0, zero: int = 0) -> str:
    return terms(u32(length), u8(kind), u8(flags), u16(zero))


def frame(kind: int, *fields: str) -> str:
    payload = terms(*fields)
    return terms(header(size(payload), kind), payload)


def hello(lowest_seq: int = 0, label: str = "64656d6f", producer_id: str = ID) -> str:
    return frame(HELLO, producer_id, u64(lowest_seq), label)


def welcome(epoch: int, expected_seq: int, largest: int = MAX_FRAME) -> str:
    return frame(WELCOME, u32(epoch), u64(expected_seq), u32(largest))


def batch(first_seq: int, *messages: str) -> str:
    ends = [0]
    for message in messages:
        ends.append(ends[-1] + size(message))
    head = terms(u64(first_seq), u32(len(messages)), u32(0))
    return frame(BATCH, head, *map(u32, ends), *messages)


def raw_batch(first_seq: int, count: int, zero: int, offsets: list[int], bodies: str) -> str:
    return frame(BATCH, u64(first_seq), u32(count), u32(zero), *map(u32, offsets), bodies)


def lost(first_seq: int, count: int, reason: int = 1) -> str:
    return frame(LOST, u64(first_seq), u64(count), u32(reason))


def ack(seq: int) -> str:
    return frame(ACK, u64(seq))


def reject(code: int, why: str) -> str:
    return frame(REJECT, u32(code), text(why))


def length(*messages: str) -> str:
    return terms(*(terms(big32(size(message)), message) for message in messages))


# -- what must be understood ----------------------------------------------------------------


def greeting(lowest_seq: int = 0, label: str = "demo", producer_id: str = ID) -> Json:
    return {"hello": {"producer_id": producer_id, "lowest_seq": lowest_seq, "label": label}}


def messages(first_seq: int, *bodies: str) -> Json:
    return {"first_seq": first_seq, "messages": list(bodies)}


def dropped(count: int) -> Json:
    return {"lost": count}


def at_end(*understood: Json, orderly: bool, error: int | None = None) -> Json:
    return {"understood": list(understood), "orderly": orderly, "error": error}


CLEAN: Final = at_end(orderly=True)
CRASH: Final = at_end(orderly=False)


def vector(
    name: str,
    why: str,
    data: str,
    *understood: Json,
    framing: str = "auto",
    answer: str = "",
    error: int | None = None,
    rejects: bool | None = None,
    end: Json | None = None,
    **more: int | str | Json,
) -> Json:
    """Return a vector for a receiver; see docs/protocol.md for what its keys mean."""
    return {
        "name": name,
        "why": why,
        "framing": framing,
        **more,
        "bytes": data,
        "understood": list(understood),
        "answer": answer,
        "error": error,
        "rejects": bool(rejects),
        "at_end": end or (CRASH if error is not None else CLEAN),
    }


# -- native ---------------------------------------------------------------------------------


def session(
    name: str,
    why: str,
    frames: str,
    *understood: Json,
    lowest_seq: int = 0,
    known: Json | None = None,
    max_message: int | None = None,
    error: int | None = None,
    end: Json = CRASH,
    rejects: bool | None = None,
) -> Json:
    """Return a vector of what comes behind a good HELLO."""
    epoch, expected, accepted = 1, lowest_seq, lowest_seq
    if known is not None:
        epoch = known["epoch"] + 1
        expected = max(expected, known["expected_seq"])
        accepted = max(accepted, known["accepted_seq"])
    largest = MAX_FRAME if max_message is None else max(max_message + 24, 4096)
    more: Json = {} if known is None else {"known": known}
    if max_message is not None:
        more["max_message"] = max_message
    return vector(
        name,
        why,
        terms(PREFACE, hello(lowest_seq), frames),
        greeting(lowest_seq),
        *understood,
        answer=terms(welcome(epoch, expected, largest), ack(accepted)),
        error=error,
        rejects=error is not None if rejects is None else rejects,
        end=end,
        **more,
    )


def refused(name: str, why: str, data: str, code: int, framing: str = "auto") -> Json:
    """Return a vector of what is refused before a HELLO was understood."""
    return vector(name, why, data, error=code, rejects=True, framing=framing)


OBSERVE, STATUS, TAP = 37, 38, 39


def observe(interval: int = 0, rate: int = 0, clip: int = 0) -> str:
    return frame(OBSERVE, u32(interval), u32(rate), u32(clip))


def native_observers() -> list[Json]:
    """Return what a receiver is asked by an observer; its answers are documents of its own."""

    def asks(name: str, why: str, interval: int, rate: int, clip: int) -> Json:
        item = {"observe": {"interval": interval, "rate": rate, "clip": clip}}
        data = terms(PREFACE, observe(interval, rate, clip))
        return vector(name, why, data, item, end=CRASH)

    def bad(name: str, why: str, code: int, *fields: str) -> Json:
        return refused(name, why, terms(PREFACE, *fields), code)

    asked = {"observe": {"interval": 0, "rate": 0, "clip": 0}}
    return [
        asks("observe-once", "an observer asks in place of HELLO", 0, 0, 0),
        asks("observe-often", "it may ask for more than one STATUS", 1000, 0, 0),
        asks("observe-samples", "... and for samples", 1000, 100, 65536),
        asks("observe-most", "the receiver bounds what is asked for", *[U32_MOST] * 3),
        bad("observe-short", "OBSERVE has 12 bytes", MALFORMED, frame(OBSERVE, "00*11")),
        bad("observe-long", "... and no more", MALFORMED, frame(OBSERVE, "00*13")),
        bad("observe-flags", "its flags are zero", MALFORMED, header(12, OBSERVE, 1), "00*12"),
        bad("status-from-observer", "a receiver's frame", UNEXPECTED, frame(STATUS, text("{}"))),
        bad("tap-from-observer", "a receiver's frame", UNEXPECTED,
            frame(TAP, u32(2), text("{}"))),
        vector("observe-twice", "one OBSERVE a connection", terms(PREFACE, observe(), observe()),
               asked, error=UNEXPECTED, rejects=True),
        vector("observe-then-hello", "... and no HELLO behind it",
               terms(PREFACE, observe(), hello()), asked, error=UNEXPECTED, rejects=True),
        session("hello-then-observe", "nor OBSERVE behind HELLO", observe(), error=UNEXPECTED),
    ]  # fmt: skip


def observers() -> list[Json]:
    """Return what an observer understands of what a receiver answers."""
    most = 4 * MIB

    def seen(name: str, why: str, *frames: str, understood: list[Json], **more: Any) -> Json:
        return {
            "name": name,
            "why": why,
            "interval": 1000,
            "rate": 100,
            "clip": 64,
            "opens_with": terms(PREFACE, observe(1000, 100, 64)),
            "receive": terms(*frames),
            "understood": understood,
            "error": None,
            "rejected": None,
            **more,
        }

    def bad(name: str, why: str, *frames: str, code: int = MALFORMED) -> Json:
        return seen(name, why, frame(STATUS, text("{}")), *frames,
                    understood=[{"status": {}}], error=code)  # fmt: skip

    def tap(head: str, body: str = "", *, said: int | None = None) -> str:
        return frame(TAP, u32(size(text(head)) if said is None else said), text(head), body)

    return [
        seen("status", "a document of JSON", frame(STATUS, text('{"pid": 1}')),
             understood=[{"status": {"pid": 1}}]),
        seen("statuses", "one behind the other", frame(STATUS, text("{}")),
             frame(STATUS, text('{"a": []}')),
             understood=[{"status": {}}, {"status": {"a": []}}]),
        seen("tap", "a head of JSON, then the message", tap('{"seq": 7}', "00ff*3"),
             understood=[{"head": {"seq": 7}, "body": "00ff*3"}]),
        seen("tap-empty", "a message may be empty", tap("{}"),
             understood=[{"head": {}, "body": ""}]),
        seen("rejected", "a receiver says why it does not answer", reject(9, "no"),
             understood=[], error=9, rejected="no"),
        seen("rejected-later", "... at any time", frame(STATUS, text("{}")), reject(BUSY, "no"),
             understood=[{"status": {}}], error=BUSY, rejected="no"),
        bad("status-no-json", "STATUS holds JSON", frame(STATUS, text("{"))),
        bad("status-no-object", "... an object", frame(STATUS, text("[]"))),
        bad("status-empty", "... and not nothing", frame(STATUS)),
        bad("status-utf16", "it is UTF-8", frame(STATUS, '{"a":1}'.encode("utf-16-le").hex())),
        bad("status-surrogate", "... without surrogates",
            frame(STATUS, text('{"a":"'), "eda080", text('"}'))),
        bad("status-half-a-pair", "... and without halves of a pair",
            frame(STATUS, text('{"a":"\\ud800"}'))),
        bad("status-infinity", "numbers are finite", frame(STATUS, text('{"a":Infinity}'))),
        bad("status-nan", "... and are numbers", frame(STATUS, text('{"a":NaN}'))),
        bad("status-number-too-large", "... that a double holds",
            frame(STATUS, text('{"a":1e999}'))),
        bad("status-unsigned", "integers have signed 64 bits",
            frame(STATUS, text(f'{{"a":{2**63}}}'))),
        seen("status-deepest", "32 containers may be within each other",
             frame(STATUS, text('{"a":' + "[" * 31 + "]" * 31 + "}")),
             understood=[{"status": {"a": nested(31)}}]),
        bad("status-too-deep", "... and no more",
            frame(STATUS, text('{"a":' + "[" * 32 + "]" * 32 + "}"))),
        bad("status-deep", "... whatever a decoder can take",
            frame(STATUS, text('{"a":' + "[" * 1500 + "]" * 1500 + "}"))),
        bad("tap-short", "TAP has at least 4 bytes", frame(TAP, "000000")),
        bad("tap-head-too-long", "its head lies within it", tap("{}", said=3)),
        bad("tap-head-no-json", "... and is JSON", tap("{]")),
        bad("flags", "flags are zero", header(2, STATUS, 1), text("{}")),
        bad("reserved", "so is what follows", header(2, STATUS, 0, 1), text("{}")),
        bad("too-large", "a length is refused before its payload", header(most + 1, STATUS),
            code=TOO_LARGE),
        bad("welcome", "an observer is no producer", welcome(1, 0), code=UNEXPECTED),
        bad("unknown-type", "there is no such type", frame(8), code=UNEXPECTED),
    ]  # fmt: skip


def nested(depth: int) -> list[Any]:
    return [] if depth == 1 else [nested(depth - 1)]


FORWARDED: Final = "894d5053523e0d0a"


def forwarded() -> list[Json]:
    """Return messages that another funnel has passed on, or that only look so."""
    peer: Json = {"pid": 7, "uid": 0, "gid": None}
    full: Json = {
        "host": "h", "time": "2026-11-27T10:00:00.123456+00:00", "peer": peer,
        "producer": {"id": ID, "label": "web"}, "seq": SEQ_MOST, "lost": SEQ_MOST,
    }  # fmt: skip
    plain = {"host": "h", "time": None, "peer": peer, "producer": None, "seq": 0}

    def message(origin: Json | str, body: str = "6869", said: int | None = None) -> str:
        data = origin if isinstance(origin, str) else text(json.dumps(origin))
        return terms(FORWARDED, u32(size(data) if said is None else said), data, body)

    def good(name: str, why: str, data: str, origin: Json, body: str = "6869") -> Json:
        return {"name": name, "why": why, "bytes": data, "origin": origin, "body": body}

    def other(name: str, why: str, data: str) -> Json:
        return {"name": name, "why": why, "bytes": data, "origin": None, "body": data}

    def without(field: str) -> str:
        return message({name: value for name, value in full.items() if name != field})

    def instead(**fields: Any) -> str:
        return message({**full, **fields})

    def literal(value: str) -> str:
        return message(text(json.dumps(full).replace(f'"seq": {SEQ_MOST}', f'"seq": {value}')))

    long_host = "h" * (4096 - size(text(json.dumps({**plain, "host": ""}))))
    return [
        good("all-fields", "an origin, and then the message", message(full), full),
        good("empty-message", "a message may be empty", message(plain, ""), plain, ""),
        good("no-loss", "lost may be missing", message(plain), plain),
        good("hops", "funnels may have passed it on", instead(hops=2), {**full, "hops": 2}),
        good("unknown-field", "other fields are ignored", instead(colour=1), full),
        good("deep-unknown-field", "... up to 32 containers within each other",
             instead(more=nested(31)), full),
        good("longest", "an origin has up to 4,096 bytes", message({**plain, "host": long_host}),
             {**plain, "host": long_host}),
        other("too-long", "... and no more", message({**plain, "host": long_host + "h"})),
        other("length-beyond", "the origin ends within the message", message(full, "", 5000)),
        other("length-most", "... whatever the length says", message(full, "", U32_MOST)),
        other("cut", "the length has four bytes", terms(FORWARDED, "000000")),
        other("no-origin", "an origin is JSON", message("")),
        other("no-json", "... and not nearly so", message(text("{"))),
        other("no-object", "... an object", message(text("[]"))),
        *[other(f"without-{field}", "a field is missing", without(field))
          for field in ("host", "time", "peer", "producer", "seq")],
        *[other(f"{field}-of-another-type", "a field has another type", instead(**{field: value}))
          for field, value in [("host", 1), ("time", 1), ("peer", {"pid": "1"}), ("producer", []),
                               ("seq", "1"), ("lost", None)]],
        other("float", "a whole number has no point", literal("1.0")),
        other("unsigned", "integers have signed 64 bits", literal(str(2**63))),
        other("digits", "... however many digits are sent", literal("1" * 2000)),
        other("infinity", "numbers are finite", literal("Infinity")),
        other("nan", "... and are numbers", literal("NaN")),
        other("half-a-pair", "text has no half of a surrogate pair", instead(host="\ud800")),
        other("surrogate", "... nor a surrogate in UTF-8",
              message(text(json.dumps(full).replace('"h"', '"h!"')).replace("21", "eda080", 1))),
        other("utf16", "an origin is UTF-8", message(json.dumps(full).encode("utf-16-le").hex())),
        other("deep", "a value is not nested so deep",
              message(text('{"host":' + "[" * 1500 + "]" * 1500 + "}"))),
    ]  # fmt: skip


def knows(expected_seq: int, accepted_seq: int, epoch: int = 1) -> Json:
    return {"expected_seq": expected_seq, "accepted_seq": accepted_seq, "epoch": epoch}


def native_greetings() -> list[Json]:
    long_label = "é" * 127 + "a"
    started = terms(welcome(1, 0), ack(0))
    return [
        session("hello", "a HELLO is answered by WELCOME and by what is accepted already", ""),
        vector(
            "hello-explicit-native",
            "the same where the receiver takes native alone",
            terms(PREFACE, hello()),
            greeting(),
            framing="native",
            answer=started,
            end=CRASH,
        ),
        vector(
            "hello-empty-label",
            "a label may be empty",
            terms(PREFACE, hello(label="")),
            greeting(label=""),
            answer=started,
            end=CRASH,
        ),
        vector(
            "hello-longest-label",
            "a label has up to 255 bytes of UTF-8",
            terms(PREFACE, hello(label="c3a9*127 61")),
            greeting(label=long_label),
            answer=started,
            end=CRASH,
        ),
        vector(
            "hello-label-with-zero",
            "a label is any UTF-8, a zero character included",
            terms(PREFACE, hello(label="610062")),
            greeting(label="a\0b"),
            answer=started,
            end=CRASH,
        ),
        vector(
            "hello-id-of-ones",
            "a producer id is any 16 bytes",
            terms(PREFACE, hello(producer_id="ff" * 16)),
            greeting(producer_id="ff" * 16),
            answer=started,
            end=CRASH,
        ),
        session(
            "hello-starts-late",
            "a new producer may start at any number",
            batch(1000, "61"),
            messages(1000, "61"),
            lowest_seq=1000,
        ),
        session(
            "hello-largest-number",
            "2**63 - 1 may be named; no message can have it",
            "",
            lowest_seq=SEQ_MOST,
        ),
        session(
            "hello-small-receiver",
            "a receiver of small messages still names a frame of 4 KiB",
            "",
            max_message=100,
        ),
        session(
            "hello-large-receiver",
            "the largest frame is the largest message and 24 bytes",
            "",
            max_message=100_000,
        ),
    ]


def native_batches() -> list[Json]:
    return [
        session(
            "batch-of-one", "the smallest batch of all", batch(0, "68656c6c6f"),
            messages(0, "68656c6c6f"),
        ),
        session(
            "batch-of-three", "bodies lie end to end, offsets tell them apart",
            batch(0, "61", "6262", "636363"), messages(0, "61", "6262", "636363"),
        ),
        session(
            "batch-of-an-empty-message", "a message may be empty", batch(0, ""), messages(0, "")
        ),
        session(
            "batch-with-empty-messages", "empty messages at either end and in the middle",
            batch(0, "", "61", "", "", "62", ""), messages(0, "", "61", "", "", "62", ""),
        ),
        session(
            "batch-of-any-bytes", "bodies are bytes: delimiters and prefaces mean nothing in them",
            batch(0, "0d0a00", PREFACE, "ff00"), messages(0, "0d0a00", PREFACE, "ff00"),
        ),
        session(
            "batches-follow", "numbers run on from batch to batch",
            terms(batch(0, "61", "62"), batch(2, "63"), batch(3, "64")),
            messages(0, "61", "62", "63", "64"),
        ),
        session(
            "batch-at-the-largest-number", "the last number that a message can have is 2**63 - 2",
            batch(SEQ_MOST - 1, "61"), messages(SEQ_MOST - 1, "61"), lowest_seq=SEQ_MOST - 1,
        ),
        session(
            "batch-of-a-largest-message", "a frame of one largest message is just not too large",
            batch(0, "61*5000"), messages(0, "61*5000"), max_message=5000,
        ),
        session(
            "batch-of-4096-bytes", "a frame of 4 KiB is never too large, whatever the limit",
            batch(0, "61*4072"), messages(0, "61*4072"), max_message=10,
        ),
        session(
            "batch-of-many", "more messages than a byte counts",
            terms(header(16 + 4 * 258, BATCH), u64(0), u32(257), u32(0), "00000000*258"),
            messages(0, *[""] * 257),
        ),
        session(
            "batch-of-a-large-message", "a large message comes whole, in however many pieces",
            batch(0, "61*70000", "62"), messages(0, "61*70000", "62"),
        ),
    ]  # fmt: skip


def native_losses_and_ends() -> list[Json]:
    return [
        session(
            "lost-then-batch", "what was dropped is counted, and the next number follows it",
            terms(lost(0, 7), batch(7, "61")), dropped(7), messages(7, "61"),
        ),
        session(
            "lost-with-nothing-behind", "a loss is told although no message follows",
            terms(batch(0, "61"), lost(1, 2)), messages(0, "61"), dropped(2),
        ),
        session(
            "lost-twice", "losses add up", terms(lost(0, 1, 1), lost(1, 2, 2)), dropped(3)
        ),
        session(
            "lost-unknown-reason", "a reason that the receiver does not know counts alike",
            terms(lost(0, 1, 99), lost(1, 1, U32_MOST)), dropped(2),
        ),
        session(
            "lost-the-most", "as many as there are numbers", lost(0, SEQ_MOST), dropped(SEQ_MOST)
        ),
        session("bye", "an orderly end", frame(BYE), end=CLEAN),
        session(
            "batch-then-bye", "an orderly end after messages",
            terms(batch(0, "61"), frame(BYE)), messages(0, "61"), end=CLEAN,
        ),
        session(
            "no-bye", "without BYE, the end is a crash; what came whole stays good",
            batch(0, "61"), messages(0, "61"),
        ),
        session(
            "cut-in-a-batch", "a frame cut off by the end of the stream counts for nothing",
            terms(batch(0, "61"), header(25, BATCH), u64(1), u32(1)), messages(0, "61"),
        ),
        session("cut-in-a-header", "nor does a header", "10000000 03"),
        vector(
            "cut-in-the-preface", "a producer may die at once", "894d5053", end=CRASH
        ),
        vector("cut-after-the-preface", "or before its HELLO", PREFACE, end=CRASH),
        vector(
            "cut-in-hello", "or within it",
            terms(PREFACE, header(28, HELLO), ID), end=CRASH,
        ),
        session(
            "cut-after-bye", "BYE makes the end orderly, even where a begun frame follows",
            terms(frame(BYE), "0000"), end=CLEAN,
        ),
    ]  # fmt: skip


def native_returns() -> list[Json]:
    return [
        session(
            "return", "the receiver goes on where it stands, and tells what it accepted",
            batch(5, "66"), messages(5, "66"), lowest_seq=3, known=knows(5, 3),
        ),
        session(
            "return-overlap", "of a batch that is partly known, the rest is taken",
            batch(3, "64", "65", "66", "67"), messages(5, "66", "67"),
            lowest_seq=3, known=knows(5, 3),
        ),
        session(
            "return-all-known", "a batch that is wholly known is dropped",
            terms(batch(3, "64", "65"), batch(5, "66")), messages(5, "66"),
            lowest_seq=3, known=knows(5, 3),
        ),
        session(
            "return-below-lowest", "a batch may begin below what HELLO named, if it is known",
            batch(1, "62", "63", "64", "65", "66"), messages(5, "66"),
            lowest_seq=3, known=knows(5, 3),
        ),
        session(
            "return-lost-overlap", "a loss that is partly known counts for the rest",
            lost(3, 4), dropped(2), lowest_seq=3, known=knows(5, 3),
        ),
        session(
            "return-lost-known", "a loss that is wholly known counts for nothing",
            terms(lost(3, 2), batch(5, "66")), messages(5, "66"),
            lowest_seq=3, known=knows(5, 3),
        ),
        session(
            "return-further", "what lies below the producer's lowest number needs no more sending",
            batch(9, "6a"), messages(9, "6a"), lowest_seq=9, known=knows(5, 3, epoch=7),
        ),
        session(
            "return-and-pipeline", "batches right behind HELLO are good where none is missing",
            terms(batch(0, "61", "62"), batch(2, "63"), frame(BYE)), messages(1, "62", "63"),
            known=knows(1, 0), end=CLEAN,
        ),
        session(
            "return-gap", "a number that is missing is never guessed over",
            batch(6, "67"), lowest_seq=3, known=knows(5, 3), error=GAP,
        ),
    ]  # fmt: skip


def native_bad_openings() -> list[Json]:
    wrong = [
        refused(
            f"preface-wrong-at-{position}",
            f"byte {position} of the preface is wrong",
            PREFACE[: 2 * position] + "2a" + PREFACE[2 * position + 2 :],
            MALFORMED,
            framing="native" if position == 0 else "auto",
        )
        for position in range(7)
    ]
    versions = [
        refused(
            f"preface-version-{version}",
            "a version that is not spoken here",
            terms(PREFACE[:-2] + u8(version), hello()),
            VERSION,
        )
        for version in (0, 2, 255)
    ]
    unknown = [
        refused(f"type-{kind}", "there is no such type", terms(PREFACE, frame(kind)), MALFORMED)
        for kind in (0, 8, 255)
    ]
    early = [
        refused(
            f"{name}-before-hello",
            "HELLO comes first",
            terms(PREFACE, data),
            UNEXPECTED,
        )
        for name, data in [
            ("batch", batch(0, "61")),
            ("lost", lost(0, 1)),
            ("bye", frame(BYE)),
            ("welcome", welcome(1, 0)),
            ("ack", ack(0)),
            ("reject", reject(MALFORMED, "no")),
        ]
    ]
    return [
        *wrong,
        *versions,
        refused("preface-repeated", "the preface comes once", PREFACE * 2, MALFORMED),
        refused("preface-lines", "text is not native", text("hello\n"), MALFORMED, "native"),
        *unknown,
        *early,
    ]


def native_bad_hellos() -> list[Json]:
    def bad(name: str, why: str, code: int, *fields: str) -> Json:
        return refused(name, why, terms(PREFACE, *fields), code)

    return [
        bad("hello-empty", "HELLO has at least 24 bytes", MALFORMED, frame(HELLO)),
        bad("hello-short", "... not 23", MALFORMED, frame(HELLO, ID, "00*7")),
        bad("hello-label-256", "... and at most 279", MALFORMED, hello(label="61*256")),
        bad("hello-label-not-utf8", "ff begins no character", MALFORMED, hello(label="61ff")),
        bad("hello-label-cut", "a character is cut off", MALFORMED, hello(label="61c3")),
        bad("hello-label-surrogate", "nor is a surrogate UTF-8", MALFORMED, hello(label="eda080")),
        bad("hello-unsigned", "numbers end at 2**63 - 1", MALFORMED, hello(2**63)),
        bad("hello-flags", "but 1 and 2, flags are zero",
            MALFORMED, header(24, HELLO, 4), ID, u64(0)),
        bad("hello-reserved", "so is what follows", MALFORMED, header(24, HELLO, 0, 1), ID, u64(0)),
        bad(
            "hello-reserved-high", "in both its bytes",
            MALFORMED, header(24, HELLO, 0, 0x100), ID, u64(0),
        ),
        bad("hello-4097", "a control frame has at most 4 KiB", TOO_LARGE, header(4097, HELLO)),
        bad("hello-4096", "... and HELLO far less", MALFORMED, hello(label="61*4072")),
        bad("hello-4-gib", "a length is refused before its payload", TOO_LARGE,
            header(U32_MOST, HELLO)),
        bad("batch-4-gib-before-hello", "a batch's, too", TOO_LARGE, header(U32_MOST, BATCH)),
        bad("type-99-4-gib", "and that of an unknown type", TOO_LARGE, header(U32_MOST, 99)),
    ]  # fmt: skip


def native_bad_batches() -> list[Json]:
    def bad(name: str, why: str, data: str, code: int = MALFORMED, **more: int) -> Json:
        return session(name, why, data, error=code, **more)  # type: ignore[arg-type]

    return [
        bad("batch-empty-payload", "a batch has a head", frame(BATCH)),
        bad("batch-short-head", "... of 16 bytes", frame(BATCH, u64(0), u32(1), "000000")),
        bad("batch-count-0", "a batch has a message", raw_batch(0, 0, 0, [0], "")),
        bad("batch-count-0-no-offset", "... also without offsets", raw_batch(0, 0, 0, [], "")),
        bad("batch-reserved", "the reserved field is zero", raw_batch(0, 1, 1, [0, 1], "61")),
        bad("batch-offsets-missing", "count + 1 offsets", raw_batch(0, 1, 0, [0], "")),
        bad("batch-offsets-cut", "... all whole", raw_batch(0, 1, 0, [0], "000000")),
        bad("batch-count-lies", "the count is of messages that are there",
            raw_batch(0, 2, 0, [0, 1], "61")),
        bad("batch-count-most", "a count of 2**32 - 1 is refused, not allocated",
            raw_batch(0, U32_MOST, 0, [0, 1], "61")),
        bad("batch-first-offset", "offsets begin at 0", raw_batch(0, 1, 0, [1, 2], "6162")),
        bad("batch-offsets-fall", "offsets never fall", raw_batch(0, 2, 0, [0, 2, 1], "61")),
        bad("batch-offset-beyond", "... nor lie behind the end",
            raw_batch(0, 2, 0, [0, 9, 2], "6162")),
        bad("batch-last-offset-short", "the last offset is the end of the bodies",
            raw_batch(0, 1, 0, [0, 1], "6162")),
        bad("batch-last-offset-long", "... and not beyond it", raw_batch(0, 1, 0, [0, 3], "6162")),
        bad("batch-offset-most", "an offset of 2**32 - 1 is refused",
            raw_batch(0, 1, 0, [0, U32_MOST], "61")),
        bad("batch-numbers-overflow", "the number after the last is at most 2**63 - 1",
            batch(SEQ_MOST, "61"), lowest_seq=SEQ_MOST),
        bad("batch-numbers-overflow-by-one", "... for each message of the batch",
            batch(SEQ_MOST - 1, "61", "62"), lowest_seq=SEQ_MOST - 1),
        bad("batch-numbers-unsigned", "... although a u64 holds more", batch(2**63, "61")),
        bad("batch-numbers-wrap", "... and does not wrap", batch(U64_MOST, "61")),
        bad("batch-flags", "flags are zero", terms(header(25, BATCH, 1), "00*25")),
        bad("batch-flags-high", "... all eight", terms(header(25, BATCH, 0x80), "00*25")),
        bad("batch-header-reserved", "so is what follows", terms(header(25, BATCH, 0, 1), "00*25")),
        bad("batch-too-large", "one byte more than WELCOME allowed", header(5025, BATCH),
            TOO_LARGE, max_message=5000),
        bad("batch-too-large-default", "one byte more than 16 MiB and 24 bytes",
            header(MAX_FRAME + 1, BATCH), TOO_LARGE),
        bad("batch-4-gib", "refused before its payload", header(U32_MOST, BATCH), TOO_LARGE),
        bad("batch-gap", "a number is missing", batch(1, "61"), GAP),
        bad("batch-gap-largest", "all numbers are", batch(SEQ_MOST - 1, "61"), GAP),
    ]  # fmt: skip


def native_bad_controls() -> list[Json]:
    def bad(name: str, why: str, data: str, code: int = MALFORMED, *good: Json) -> Json:
        return session(name, why, data, *good, error=code)

    return [
        bad("lost-nothing", "at least one was dropped", lost(0, 0)),
        bad("lost-overflow", "the number after the last is at most 2**63 - 1", lost(1, SEQ_MOST)),
        bad("lost-unsigned", "... although a u64 holds more", lost(0, 2**63)),
        bad("lost-wraps", "... and does not wrap", lost(U64_MOST, U64_MOST)),
        bad("lost-short", "LOST has 20 bytes", frame(LOST, u64(0), u64(1), "000000")),
        bad("lost-long", "... and no more", frame(LOST, u64(0), u64(1), u32(1), "00")),
        bad("lost-empty", "... nor fewer", frame(LOST)),
        bad("lost-gap", "a number is missing", lost(1, 1), GAP),
        bad("lost-4097", "a control frame has at most 4 KiB", header(4097, LOST), TOO_LARGE),
        bad("bye-payload", "BYE has none", frame(BYE, "00")),
        bad("hello-twice", "one HELLO a connection", hello(), UNEXPECTED),
        bad("hello-again-later", "... at any time", terms(batch(0, "61"), hello()), UNEXPECTED,
            messages(0, "61")),
        bad("welcome-from-producer", "a receiver's frame", welcome(1, 0), UNEXPECTED),
        bad("ack-from-producer", "a receiver's frame", ack(0), UNEXPECTED),
        bad("reject-from-producer", "a receiver's frame", reject(MALFORMED, "no"), UNEXPECTED),
        bad("unknown-type", "there is no such type", frame(8, "00")),
        bad("good-then-bad", "what came before a bad frame stays good",
            terms(batch(0, "61", "62"), frame(8)), MALFORMED, messages(0, "61", "62")),
        bad("good-then-bad-header", "... also where a header is bad",
            terms(batch(0, "61", "62"), header(0, BYE, 1)), MALFORMED, messages(0, "61", "62")),
        bad("bad-header-behind-hello", "HELLO is answered, then the bad frame is refused",
            header(0, BYE, 1)),
        bad("lost-then-bad", "a loss before a bad frame stays counted",
            terms(lost(0, 3), header(0, BYE, 1)), MALFORMED, dropped(3)),
        bad("lost-then-gap", "... whatever is bad", terms(lost(0, 3), batch(4, "61")), GAP,
            dropped(3)),
        bad("bad-then-good", "nothing is understood behind a bad frame",
            terms(frame(BYE, "00"), batch(0, "61")), MALFORMED),
        session("batch-after-bye", "nothing comes after BYE; who said it hears no REJECT",
                terms(frame(BYE), batch(0, "61")), error=UNEXPECTED, rejects=False),
        session("bye-twice", "not even BYE", terms(frame(BYE), frame(BYE)),
                error=UNEXPECTED, rejects=False),
        session("bad-after-bye", "nor what breaks the format",
                terms(frame(BYE), header(0, BYE, 1)), error=MALFORMED, rejects=False),
    ]  # fmt: skip


# -- foreign framings -----------------------------------------------------------------------


def foreign(framing: str, max_message: int | None = None) -> Any:
    more: Json = {} if max_message is None else {"max_message": max_message}

    def make(
        name: str,
        why: str,
        data: str,
        *understood: Json,
        end: Json = CLEAN,
        error: int | None = None,
    ) -> Json:
        end = CRASH if error is not None else end
        return vector(
            name, why, data, *understood, framing=framing, end=end, error=error, **more
        )  # fmt: skip

    return make


def lines() -> list[Json]:
    line, small = foreign("lines"), foreign("lines", 8)

    def rest(first_seq: int, body: str) -> Json:
        return at_end(messages(first_seq, body), orderly=True)

    return [
        line("line", "a line is a message", "68690a", messages(0, "6869")),
        line("lines", "each its own", "610a62620a630a", messages(0, "61", "6262", "63")),
        line("empty-line", "an empty line is an empty message", "0a", messages(0, "")),
        line("empty-lines", "each of them", "0a610a0a", messages(0, "", "61", "")),
        line("crlf", "one carriage return before the newline goes with it", "610d0a620a0d0a",
             messages(0, "61", "62", "")),
        line("crcrlf", "one, and no more", "610d0d0a", messages(0, "610d")),
        line("cr-inside", "a carriage return elsewhere is part of the message", "0d610d620a",
             messages(0, "0d610d62")),
        line("unfinished", "what is left at the end is a message", "610a6262",
             messages(0, "61"), end=rest(1, "6262")),
        line("unframed", "text without any newline is one message", text("Hello from producer 0"),
             end=rest(0, text("Hello from producer 0"))),
        line("unfinished-cr", "... just as it stands", "610a620d", messages(0, "61"),
             end=rest(1, "620d")),
        line("nothing", "nothing is no message", ""),
        line("any-bytes", "a line is bytes, not text", "ff00fe890a", messages(0, "ff00fe89")),
        line("long", "a line may come in many pieces", "61*70000 0a", messages(0, "61*70000")),
        small("most", "as long as allowed", "61*8 0a", messages(0, "61*8")),
        small("most-crlf", "... not counting its carriage return", "61*8 0d0a",
              messages(0, "61*8")),
        small("most-unfinished", "... without a newline", "61*8", end=rest(0, "61*8")),
        small("most-crcrlf", "a second carriage return counts", "61*8 0d0d0a", error=TOO_LARGE),
        small("most-cr-unfinished", "... as one does at the end", "61*8 0d",
              end=at_end(orderly=False, error=TOO_LARGE)),
        small("too-large", "one byte too long", "61*9 0a", error=TOO_LARGE),
        small("too-large-unfinished", "... before its newline has come", "61*9", error=TOO_LARGE),
        small("good-then-too-large", "lines before it stay good", "610a620a 63*9 0a640a",
              messages(0, "61", "62"), error=TOO_LARGE),
        small("many-small", "the limit is a message's, not a stream's", "61616161610a*5",
              messages(0, *["6161616161"] * 5)),
    ]  # fmt: skip


def null() -> list[Json]:
    item, small = foreign("null"), foreign("null", 8)

    def rest(first_seq: int, body: str) -> Json:
        return at_end(messages(first_seq, body), orderly=True)

    return [
        item("item", "what ends with a zero byte is a message", "686900", messages(0, "6869")),
        item("items", "each its own", "61006200", messages(0, "61", "62")),
        item("empty-items", "they may be empty", "00610000", messages(0, "", "61", "")),
        item("newlines", "newlines and carriage returns are part of them", "610d0a000a00",
             messages(0, "610d0a", "0a")),
        item("unfinished", "what is left at the end is a message", "610062", messages(0, "61"),
             end=rest(1, "62")),
        item("unfinished-cr", "... just as it stands", "620d", end=rest(0, "620d")),
        item("nothing", "nothing is no message", ""),
        item("any-bytes", "first bytes mean nothing where the framing is chosen", "8900",
             messages(0, "89")),
        small("most", "as long as allowed", "61*8 00", messages(0, "61*8")),
        small("most-cr", "a carriage return counts here", "61*8 0d00", error=TOO_LARGE),
        small("too-large", "one byte too long", "61*9 00", error=TOO_LARGE),
        small("too-large-unfinished", "... before its end has come", "61*9", error=TOO_LARGE),
        small("good-then-too-large", "what came before stays good", "6100 62*9",
              messages(0, "61"), error=TOO_LARGE),
    ]  # fmt: skip


def lengths() -> list[Json]:
    item, small = foreign("length"), foreign("length", 1000)
    cut = at_end(orderly=False, error=MALFORMED)
    return [
        item("message", "a length, then as many bytes", "00000002 6869", messages(0, "6869")),
        item("messages", "one behind the other", length("61", "6262", "63"),
             messages(0, "61", "6262", "63")),
        item("empty-message", "a length may be 0", "00000000", messages(0, "")),
        item("empty-messages", "... again and again", length("", "61", "", ""),
             messages(0, "", "61", "", "")),
        item("big-endian", "the length is big-endian", "00000102 61*258", messages(0, "61*258")),
        item("any-bytes", "bodies are bytes", length("0a0d00", PREFACE),
             messages(0, "0a0d00", PREFACE)),
        item("long", "a message may come in many pieces", "00011170 61*70000",
             messages(0, "61*70000")),
        item("nothing", "nothing is no message", ""),
        item("cut-in-the-length", "a message cut off is an error", "0000", end=cut),
        item("cut-in-the-body", "... wherever it is cut", "00000003 6161", end=cut),
        item("cut-before-the-body", "... even before its first byte", "00000003", end=cut),
        item("good-then-cut", "what came before stays good", "00000001 61 00000003 6161",
             messages(0, "61"), end=cut),
        item("largest-declared", "16 MiB may be declared", "01000000", end=cut),
        item("too-large-by-one", "... and no more", "01000001", error=TOO_LARGE),
        item("4-gib", "a length is refused before its body", "ffffffff", error=TOO_LARGE),
        small("most", "as long as allowed", "000003e8 61*1000", messages(0, "61*1000")),
        small("too-large", "one byte too long", "000003e9", error=TOO_LARGE),
        small("good-then-too-large", "what came before stays good", "00000001 61 000003e9 62",
              messages(0, "61"), error=TOO_LARGE),
        small("many-small", "the limit is a message's, not a stream's", "00000190 61*400 " * 3,
              messages(0, "61*400", "61*400", "61*400")),
    ]  # fmt: skip


def lengths_le() -> list[Json]:
    item, small = foreign("length-le"), foreign("length-le", 1000)
    cut = at_end(orderly=False, error=MALFORMED)
    return [
        item("message", "a length, then as many bytes", "02000000 6869", messages(0, "6869")),
        item("little-endian", "the length is little-endian", "02010000 61*258 00000000",
             messages(0, "61*258", "")),
        item("nothing", "nothing is no message", ""),
        item("cut-in-the-length", "a message cut off is an error", "0000", end=cut),
        item("cut-in-the-body", "... wherever it is cut", "03000000 6161", end=cut),
        item("largest-declared", "16 MiB may be declared", "00000001", end=cut),
        item("too-large-by-one", "... and no more", "01000001", error=TOO_LARGE),
        small("good-then-too-large", "what came before stays good", "01000000 61 e9030000 62",
              messages(0, "61"), error=TOO_LARGE),
    ]  # fmt: skip


def octet_counted() -> list[Json]:
    item, small = foreign("octet-counted"), foreign("octet-counted", 8)
    cut = at_end(orderly=False, error=MALFORMED)

    def bad(name: str, why: str, data: str, *good: Json) -> Json:
        made: Json = item(name, why, data, *good, error=MALFORMED)
        return made

    return [
        item("message", "a length in digits, a space, then as many bytes", text("2 hi"),
             messages(0, "6869")),
        item("messages", "one behind the other", text("1 a10 bbbbbbbbbb1 c"),
             messages(0, "61", "62*10", "63")),
        item("any-bytes", "bodies are bytes", terms(text("4 "), "0a002031"),
             messages(0, "0a002031")),
        item("long", "a message may come in many pieces", terms(text("70000 "), "61*70000"),
             messages(0, "61*70000")),
        item("nothing", "nothing is no message", ""),
        item("cut-in-the-length", "a message cut off is an error", text("12"), end=cut),
        item("cut-before-the-body", "... wherever it is cut", text("12 "), end=cut),
        item("good-then-cut", "what came before stays good", text("1 a3 bb"), messages(0, "61"),
             end=cut),
        bad("length-0", "a length is not 0", text("0 ")),
        bad("length-with-zero", "... nor begins with it", text("01 a")),
        bad("no-digits", "... but with a digit", text("<34>hello")),
        bad("no-space", "a space follows it, and nothing else", text("3\thi!")),
        bad("length-of-11-digits", "it has up to ten digits", text("11111111111")),
        bad("newline-behind", "nothing stands between messages", text("1 a\n1 b"),
            messages(0, "61")),
        small("most", "as long as allowed", text("8 aaaaaaaa"), messages(0, "61*8")),
        small("too-large", "a length is refused before its body", text("1 a9 "),
              messages(0, "61"), error=TOO_LARGE),
        item("10-digits", "of whatever size", text("9999999999 "), error=TOO_LARGE),
    ]  # fmt: skip


def whole_connections() -> list[Json]:
    item, small = foreign("eof"), foreign("eof", 8)

    def whole(body: str) -> Json:
        return at_end(messages(0, body), orderly=True)

    return [
        item("eof", "all up to the end is one message", "68690a00", end=whole("68690a00")),
        item("one-byte", "however short", "00", end=whole("00")),
        item("preface", "first bytes mean nothing where the framing is chosen", PREFACE,
             end=whole(PREFACE)),
        item("long", "however many pieces", "61*70000", end=whole("61*70000")),
        item("nothing", "a connection that says nothing has no message", ""),
        small("most", "as long as allowed", "61*8", end=whole("61*8")),
        small("too-large", "one byte too long", "61*9", error=TOO_LARGE),
    ]  # fmt: skip


def detection() -> list[Json]:
    def found(
        name: str, why: str, data: str, framing: str, *understood: Json, **more: Any
    ) -> Json:  # fmt: skip
        return vector(name, why, data, *understood, detected=framing, **more)

    def untold(name: str, why: str, data: str, framing: str, body: str) -> Json:
        """Return a vector of text whose framing only the end tells."""
        end = at_end(messages(0, body), orderly=True) | {"detected": framing}
        return vector(name, why, data, detected="auto", end=end)

    def not_text(name: str, why: str, data: str, *good: Json) -> Json:
        return vector(name, why, data, *good, error=MALFORMED)

    texts = [
        found(f"byte-{first}", "any other byte begins a line", first + "0a", "lines",
              messages(0, first))
        for first in ("01", "0d41", "20", "41", "7b", "7f", "80", "88", "8a", "c3a9", "ff")
    ]  # fmt: skip
    return [
        found("native", "89 opens the preface", terms(PREFACE, hello()), "native", greeting(),
              answer=terms(welcome(1, 0), ack(0)), end=CRASH),
        found("native-one-byte", "the first byte decides", "89", "native", end=CRASH),
        found("native-and-nothing-else", "89 is never the beginning of a line", "890a", "native",
              error=MALFORMED, rejects=True),
        found("length", "00 begins a length below 16 MiB", "00000001 61", "length",
              messages(0, "61")),
        found("length-empty", "of 0, too", "00000000", "length", messages(0, "")),
        found("length-most", "up to 2**24 - 1", "00ffffff", "length",
              end=at_end(orderly=False, error=MALFORMED)),
        found("length-then-larger", "once decided, a message may have 16 MiB",
              "00000001 61 01000000", "length", messages(0, "61"),
              end=at_end(orderly=False, error=MALFORMED)),
        found("newline", "a newline is an empty line", "0a", "lines", messages(0, "")),
        *texts,
        found("decided-once", "later lines may begin with any byte", "610a890a000a", "lines",
              messages(0, "61", "89", "00")),
        found("nothing", "a connection that says nothing is in no framing yet", "", "auto"),
        found("null", "text is null if a zero byte comes before a newline", "61626300 64650a6600",
              "null", messages(0, "616263", "64650a66")),
        found("lines-with-zero", "... and lines if a newline comes first", "61620a636400650a",
              "lines", messages(0, "6162", "63640065")),
        found("null-long", "however late it comes", "61*70000 00", "null", messages(0, "61*70000")),
        found("null-late-newline", "... and whatever follows", "61*70000 00 620a 00", "null",
              messages(0, "61*70000", "620a")),
        found("null-short", "of short messages, four bytes are awaited", "61006200", "null",
              messages(0, "61", "62")),
        untold("null-shorter", "... or the end", "6100", "null", "61"),
        untold("unframed", "text without any separator is one line", text("Hello"), "lines",
               text("Hello")),
        found("syslog", "text that begins with a priority is nothing special",
              text("<34>1 a\n"), "lines", messages(0, text("<34>1 a"))),
        found("syslog-null", "... whichever way its end is marked", terms(text("<13>a"), "00"),
              "null", messages(0, text("<13>a"))),
        found("octet-counted", "digits, a space and a priority are octet counting",
              text("7 <34>1 a8 <165>1 b"), "octet-counted",
              messages(0, text("<34>1 a"), text("<165>1 b"))),
        found("octet-counted-cut", "... once the priority is whole", text("13 <34>"),
              "octet-counted", end=at_end(orderly=False, error=MALFORMED)),
        untold("octet-counted-not-yet", "... and not before", text("13 <34"), "lines",
               text("13 <34")),
        found("octet-counted-other", "once decided, a message may begin with any byte",
              text("5 <34>a1 b"), "octet-counted", messages(0, text("<34>a"), text("b"))),
        found("digits", "other digits begin a line", text("42 <b>\n"), "lines",
              messages(0, text("42 <b>"))),
        not_text("length-le", "a length below 64 KiB, the low byte first, is refused",
                 terms("05000000", text("hello"))),
        not_text("length-le-two-bytes", "... of two bytes, too", terms("2c010000", "61*300")),
        not_text("length-le-newline", "... with no message before, if its first byte is a newline",
                 terms("0a000000", "61*10")),
        not_text("length-le-newline-second", "... or its second one", terms("010a0000", "61*2561")),
        vector("lines-explicit-89", "a framing that is chosen needs no detection", "890a",
               messages(0, "89"), framing="lines"),
        vector("lines-explicit-00", "... by any byte", "000a", messages(0, "00"),
               framing="lines"),
        vector("length-explicit-01", "... so that a first message may have 16 MiB", "01000000",
               framing="length", end=at_end(orderly=False, error=MALFORMED)),
    ]  # fmt: skip


# -- several connections ------------------------------------------------------------------------


def brings(
    on: int, data: str, *understood: Json, answer: str = "", fences: int | None = None
) -> Json:
    """Return a step: a connection brings bytes."""
    step: Json = {"on": on, "bytes": data, "understood": list(understood), "answer": answer}
    return step if fences is None else {**step, "fences": fences}


def ends(on: int, *, orderly: bool = False) -> Json:
    return {"on": on, "ends": {"orderly": orderly}}


def accepts(on: int, seq: int) -> Json:
    return {"on": on, "accepts": seq, "answer": ack(seq)}


RESTART: Final[Json] = {"restart": True}


def connections() -> list[Json]:
    def opens(
        on: int, lowest_seq: int, epoch: int, expected: int, accepted: int, **more: Any
    ) -> Json:
        return brings(on, terms(PREFACE, hello(lowest_seq)), greeting(lowest_seq),
                      answer=terms(welcome(epoch, expected), ack(accepted)), **more)  # fmt: skip

    def story(name: str, why: str, *steps: Json) -> Json:
        return {"name": name, "why": why, "steps": list(steps)}

    first = (opens(1, 0, 1, 0, 0), brings(1, batch(0, "61", "62"), messages(0, "61", "62")))
    other = "ff" * 16
    return [
        story(
            "resent", "what was received and not accepted is sent again, and dropped",
            *first, ends(1), opens(2, 0, 2, 2, 0),
            brings(2, batch(0, "61", "62", "63"), messages(2, "63")),
        ),
        story(
            "resent-in-part", "... as far as it was not accepted",
            *first, accepts(1, 1), ends(1), opens(2, 1, 2, 2, 1),
            brings(2, batch(1, "62", "63"), messages(2, "63")), accepts(2, 3),
        ),
        story(
            "ack-lost", "an acknowledgement that the producer did not hear is told again",
            *first, accepts(1, 2), ends(1), opens(2, 0, 2, 2, 2),
            brings(2, batch(2, "63"), messages(2, "63")),
        ),
        story(
            "cut-batch", "a batch that was cut off comes whole on the next connection",
            opens(1, 0, 1, 0, 0), brings(1, batch(0, "61"), messages(0, "61")),
            brings(1, terms(header(25, BATCH), u64(1), u32(1))), ends(1), opens(2, 0, 2, 1, 0),
            brings(2, terms(batch(0, "61"), batch(1, "62")), messages(1, "62")),
        ),
        story(
            "lost-again", "a loss that is told again counts once",
            opens(1, 0, 1, 0, 0), brings(1, lost(0, 2), dropped(2)), ends(1),
            opens(2, 0, 2, 2, 0), brings(2, terms(lost(0, 2), batch(2, "63")), messages(2, "63")),
        ),
        story(
            "three-connections", "each goes on where the one before ended",
            *first, ends(1), opens(2, 0, 2, 2, 0), brings(2, batch(2, "63"), messages(2, "63")),
            ends(2), opens(3, 0, 3, 3, 0),
            brings(3, batch(0, "61", "62", "63", "64"), messages(3, "64")),
        ),
        story(
            "fenced", "a newer connection of a producer ends the older one",
            *first, opens(2, 0, 2, 2, 0, fences=1), brings(1, batch(2, "78")),
            brings(2, batch(0, "61", "62", "63"), messages(2, "63")),
        ),
        story(
            "fenced-twice", "... each time", *first, opens(2, 0, 2, 2, 0, fences=1),
            opens(3, 0, 3, 2, 0, fences=2), brings(3, batch(2, "63"), messages(2, "63")),
        ),
        story(
            "others-unfenced", "another producer id is another producer",
            *first,
            brings(2, terms(PREFACE, hello(producer_id=other)), greeting(producer_id=other),
                   answer=terms(welcome(1, 0), ack(0))),
            brings(2, batch(0, "78"), messages(0, "78")),
            brings(1, batch(2, "63"), messages(2, "63")),
        ),
        story(
            "bye-forgets", "after BYE with all accepted, the receiver need not know it any more",
            *first, accepts(1, 2), brings(1, frame(BYE)), ends(1, orderly=True),
            opens(2, 2, 1, 2, 2), brings(2, batch(2, "63"), messages(2, "63")),
        ),
        story(
            "bye-too-early", "... but with something not accepted, it must",
            *first, brings(1, frame(BYE)), ends(1, orderly=True), opens(2, 0, 2, 2, 0),
            brings(2, batch(0, "61", "62", "63"), messages(2, "63")),
        ),
        story(
            "new-receiver", "another receiver knows nothing, and gets all that was not accepted",
            *first, accepts(1, 1), RESTART, opens(2, 1, 1, 1, 1),
            brings(2, batch(1, "62", "63"), messages(1, "62", "63")),
        ),
    ]  # fmt: skip


# -- the sending end ------------------------------------------------------------------------


def receive(*frames: str) -> Json:
    return {"receive": terms(*frames)}


def sends(end_seq: int) -> Json:
    return {"sends": end_seq}


BYE_STEP: Final[Json] = {"bye": frame(BYE)}


def producer(
    name: str,
    why: str,
    steps: list[Json],
    *understood: Json,
    lowest_seq: int = 0,
    label: str = "demo",
    error: int | None = None,
    rejected: str | None = None,
) -> Json:
    return {
        "name": name,
        "why": why,
        "producer_id": ID,
        "lowest_seq": lowest_seq,
        "label": label,
        "opens_with": terms(PREFACE, hello(lowest_seq, text(label))),
        "steps": steps,
        "understood": list(understood),
        "error": error,
        "rejected": rejected,
    }


def welcomed(expected_seq: int = 0, max_message: int = MAX_MESSAGE) -> Json:
    return {"expected_seq": expected_seq, "max_message": max_message}


def accepted(seq: int) -> Json:
    return {"accepted": seq}


def producers() -> list[Json]:
    start = receive(welcome(1, 0), ack(0))
    good = (welcomed(), accepted(0))

    def bad(name: str, why: str, *frames: str, code: int = MALFORMED, after: bool = True) -> Json:
        return producer(name, why, [*([start] if after else []), receive(*frames)],
                        *(good if after else ()), error=code)  # fmt: skip

    too_early = [
        bad(f"{name}-before-welcome", "WELCOME or REJECT comes first", data, code=UNEXPECTED,
            after=False)
        for name, data in [("ack", ack(0)), ("batch", batch(0, "61")), ("bye", frame(BYE)),
                           ("hello", hello()), ("lost", lost(0, 1))]
    ]  # fmt: skip
    wrong_way = [
        bad(f"{name}-from-receiver", "a producer's frame", data, code=UNEXPECTED)
        for name, data in [("batch", batch(0, "61")), ("bye", frame(BYE)), ("hello", hello()),
                           ("lost", lost(0, 1))]
    ]  # fmt: skip
    rejections = [
        producer(f"rejected-{code}", "a receiver may refuse at once",
                 [receive(reject(code, "because"))], error=code, rejected="because")
        for code in (VERSION, MALFORMED, UNEXPECTED, GAP, TOO_LARGE, FENCED, BUSY, DEADLINE, 99)
    ]  # fmt: skip
    return [
        producer("welcomed", "WELCOME tells where to go on and how large messages may be",
                 [start], *good),
        producer("welcomed-small", "messages are 24 bytes smaller than frames",
                 [receive(welcome(3, 0, 4096), ack(0))], welcomed(0, 4072), accepted(0)),
        producer("welcomed-largest", "as large as a u32 holds",
                 [receive(welcome(U32_MOST, 0, U32_MOST))], welcomed(0, U32_MOST - 24)),
        producer("welcomed-further", "the receiver may know more than was accepted",
                 [receive(welcome(2, 9), ack(5))], welcomed(9), accepted(5), lowest_seq=5),
        producer("empty-label", "a label may be empty", [start], *good, label=""),
        producer("longest-label", "a label has up to 255 bytes of UTF-8", [start], *good,
                 label="é" * 127 + "a"),
        producer("accepted", "acknowledgements are cumulative",
                 [start, sends(3), receive(ack(2)), receive(ack(3))],
                 *good, accepted(2), accepted(3)),
        producer("accepted-again", "one that says nothing new does no harm",
                 [start, sends(3), receive(ack(3), ack(3), ack(1))],
                 *good, accepted(3), accepted(3), accepted(1)),
        producer("accepted-the-most", "up to the largest number",
                 [receive(welcome(1, SEQ_MOST - 1)), sends(SEQ_MOST), receive(ack(SEQ_MOST))],
                 welcomed(SEQ_MOST - 1), accepted(SEQ_MOST), lowest_seq=SEQ_MOST - 1),
        producer("bye", "an orderly end", [start, sends(1), receive(ack(1)), BYE_STEP],
                 *good, accepted(1)),
        producer("accepted-after-bye", "what was on its way when BYE was sent is good",
                 [start, sends(2), BYE_STEP, receive(ack(1), ack(2))],
                 *good, accepted(1), accepted(2)),
        producer("rejected-after-bye", "so is a REJECT",
                 [start, BYE_STEP, receive(reject(FENCED, "because"))],
                 *good, error=FENCED, rejected="because"),
        producer("rejected-later", "a receiver may refuse at any time",
                 [start, sends(1), receive(reject(GAP, "because"))],
                 *good, error=GAP, rejected="because"),
        *rejections,
        producer("rejected-without-words", "the text may be empty",
                 [receive(reject(BUSY, ""))], error=BUSY, rejected=""),
        producer("rejected-not-utf8", "a text that is no UTF-8 is still a REJECT",
                 [receive(frame(REJECT, u32(BUSY), "61ff62"))], error=BUSY,
                 rejected="a\ufffdb"),
        producer("accepted-then-rejected", "what was accepted before a REJECT stays so",
                 [start, sends(2), receive(ack(2), reject(FENCED, "because"))],
                 *good, accepted(2), error=FENCED, rejected="because"),
        producer("cut", "a frame cut off counts for nothing", [start, receive("08000000 0500")],
                 *good),
        *too_early,
        *wrong_way,
        bad("welcome-twice", "one WELCOME a connection", welcome(1, 0), code=UNEXPECTED),
        bad("welcome-short", "WELCOME has 16 bytes", frame(WELCOME, u32(1), u64(0), "000000"),
            after=False),
        bad("welcome-long", "... and no more", frame(WELCOME, u32(1), u64(0), u32(0), "00"),
            after=False),
        producer("welcome-too-low", "a receiver expects no less than HELLO's lowest number",
                 [receive(welcome(1, 4))], lowest_seq=5, error=MALFORMED),
        bad("welcome-unsigned", "numbers end at 2**63 - 1", welcome(1, 2**63), after=False),
        bad("ack-unsigned", "... in every frame", ack(2**63)),
        bad("welcome-small-frame", "the largest frame is 4 KiB or more", welcome(1, 0, 4095),
            after=False),
        bad("ack-too-high", "only what was sent can be accepted", ack(1)),
        producer("ack-too-high-later", "... at any time",
                 [start, sends(3), receive(ack(4))], *good, error=MALFORMED),
        bad("ack-short", "ACK has 8 bytes", frame(ACK, "00*7")),
        bad("ack-long", "... and no more", frame(ACK, "00*9")),
        bad("reject-short", "REJECT has at least 4 bytes", frame(REJECT, "000000"), after=False),
        bad("flags", "flags are zero", header(8, ACK, 1), u64(0)),
        bad("welcome-flags", "but WELCOME's 1 ...", header(16, WELCOME, 2), "00*16", after=False),
        bad("welcome-accepts-files", "... for a producer that would send files",
            header(16, WELCOME, 1), u32(1), u64(0), u32(MAX_FRAME), after=False),
        bad("reserved", "so is what follows", header(8, ACK, 0, 1), u64(0)),
        bad("type-0", "there is no such type", frame(0)),
        bad("type-8", "there is no such type", frame(8)),
        bad("frame-4097", "a receiver's frames have at most 4 KiB", header(4097, REJECT),
            code=TOO_LARGE, after=False),
        bad("frame-4-gib", "a length is refused before its payload", header(U32_MOST, ACK),
            code=TOO_LARGE),
        bad("text", "a receiver that answers in text is none", text("HTTP/1.1 400 Bad Request"),
            code=MALFORMED, after=False),
        bad("nothing-after-bad", "nothing is understood behind a bad frame",
            frame(ACK, "00*9"), ack(0)),
        bad("bad-header-after-good", "what came before a bad header stays good",
            header(8, ACK, 1)),
    ]  # fmt: skip


def files() -> dict[str, list[Json]]:
    """Return every file's vectors."""
    return {
        "native.json": [
            *native_greetings(),
            *native_batches(),
            *native_losses_and_ends(),
            *native_returns(),
            *native_bad_openings(),
            *native_bad_hellos(),
            *native_bad_batches(),
            *native_bad_controls(),
            *native_observers(),
        ],
        "lines.json": lines(),
        "null.json": null(),
        "length.json": lengths(),
        "length-le.json": lengths_le(),
        "octet-counted.json": octet_counted(),
        "eof.json": whole_connections(),
        "detection.json": detection(),
        "connections.json": connections(),
        "producer.json": producers(),
        "observer.json": observers(),
        "forwarded.json": forwarded(),
    }


def render(vectors: list[Json]) -> str:
    """Return the text of one file: JSON, one key a line."""
    objects = (
        ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in vector.items())
        for vector in vectors
    )
    return "[\n" + ",\n".join(f" {{\n{lines}\n }}" for lines in objects) + "\n]\n"


if __name__ == "__main__":
    for name, vectors in files().items():
        (HERE / name).write_text(render(vectors), encoding="utf-8")
