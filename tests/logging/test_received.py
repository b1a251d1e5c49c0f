"""The fields of received records: the quick way to read them, and the way for any program's."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from mpsr.logging.encoding import encode
from mpsr.logging.received import Fields, _decode, _typed, fields_of, object_of

WHOLE: dict[str, Any] = dict.fromkeys(Fields.__struct_fields__, "text")
WHOLE |= {"levelno": 20, "process": 1, "thread": 2, "line": 3, "extra": {"a": [1]}, "exception": {}}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Any] = [None, "", "text", 0, -1, 7.0, 7.5, 1e300, True, [], {}, [[1]]]
VALUES += [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, {"a": 2**63}, {"a": [{"b": 10**4000}]}]
VALUES += [{"a": nested(depth)} for depth in (29, 30, 31, 32)]
VALUES += ["\ud800", "\u2028", {"traceback": 7}, {"traceback": "text"}, {"\ud800": "\udc00"}]


def in_general(body: bytes) -> Fields | None:
    found = object_of(body)
    return None if found is None else _typed(found)


@pytest.mark.parametrize("field", [*WHOLE, "another"])
def test_both_ways_read_the_same(field: str) -> None:
    """Whatever the value of a field is, also of one that mpsr does not know."""
    objects = [WHOLE | {field: value} for value in VALUES]
    objects.append({name: value for name, value in WHOLE.items() if name != field})
    bodies = [json.dumps(each).encode() for each in objects]
    bodies += [json.dumps(each, ensure_ascii=False).encode("utf-8", "replace") for each in objects]
    bodies += [body.replace(b'"text"', b'"\xff"', 1) for body in bodies[:2]]
    bodies += [body + rest for body in bodies[:2] for rest in (b" ", b"\n", b"{}", b"\0")]
    bodies.append(json.dumps(WHOLE)[:-1].encode() + b',"%s":' % field.encode() + b"[" * 9999)
    for body in bodies:
        assert fields_of(body) == in_general(body), body[:200]


def test_records_of_the_handler_are_read_the_quick_way() -> None:
    """Each field that it sends is known, with its type."""
    try:
        raise ValueError("wrong")
    except ValueError as exc:
        error = exc
    extra = {"host": "db", "n": 1, "list": [1, None]}
    record = logging.Logger("app").makeRecord(  # noqa: LOG001 - no other test sees it
        "app", 20, __file__, 7, "text", (), (type(error), error, None), "f", extra, "stack"
    )
    record.taskName = "task"
    body = encode(record, "text")
    assert _decode(body) == fields_of(body) == in_general(body)
    assert set(json.loads(body)) == set(Fields.__struct_fields__)
