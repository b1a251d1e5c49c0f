"""Hold the two twins of the codec to the same answer to every call."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from operator import length_hint
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsr._speedups import codec_py as python
from tests.chance import Chance

SOAK_INPUTS: Final = 1_000_000
NEEDS_C: Final = pytest.mark.skipif(
    find_spec("mpsr._speedups._c") is None and os.environ.get("MPSR_SPEEDUPS") != "require",
    reason="the C twin is not built",
)

Make = Callable[[], object]
"""Makes an argument: each twin gets one of its own, because a call may use it up."""


@pytest.fixture(scope="module")
def c() -> ModuleType:
    """Return the C twin."""
    return import_module("mpsr._speedups._c")


# -- arguments of every kind ----------------------------------------------------------------


class Bytes(bytes):
    """A subclass, which may carry more than its bytes."""


class List(list[Any]):
    """A list that has more to give than it shows."""

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        yield b"more"


class Number:
    """Stands for a number, or fails to."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __index__(self) -> int:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value  # type: ignore[no-any-return]


def released(data: bytes) -> memoryview:
    view = memoryview(data)
    view.release()
    return view


def failing(items: list[object]) -> Iterator[object]:
    yield from items
    raise KeyError("no more")


def shaped(data: bytes) -> memoryview:
    return (
        memoryview(data + bytes(-len(data) % 6)).cast("B", [3, -(-len(data) // 6), 2])
        if data
        else memoryview(data)
    )


BUFFERS: Final[list[Callable[[bytes], object]]] = [
    bytes,
    Bytes,
    bytearray,
    memoryview,
    lambda data: memoryview(bytearray(data)),
    lambda data: memoryview(data)[::2],
    lambda data: memoryview(data)[::-1],
    lambda data: memoryview(data + bytes(-len(data) % 4)).cast("I"),
    lambda data: memoryview(data + bytes(-len(data) % 4)).cast("I")[::3],
    shaped,
    lambda data: array("H", data + bytes(len(data) % 2)),
    lambda data: (ctypes.c_char * len(data)).from_buffer_copy(data),
    lambda data: ctypes.c_uint64(len(data)),
    released,
]
STRANGERS: Final[list[Make]] = [
    lambda: "text",
    lambda: 5,
    lambda: 1.5,
    lambda: None,
    lambda: [b"a"],
    object,
    lambda: bytes,
    lambda: Number(3),
]
CONTAINERS: Final[list[Callable[[list[object]], object]]] = [
    list,
    tuple,
    List,
    iter,
    deque,
    failing,
    lambda items: dict.fromkeys(map(id, items)),
    lambda items: dict(enumerate(items)).values(),
]
EDGES: Final = [0, 1, 7, 8, 9, 255, 2**31, 2**32 - 21, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64]
NUMBERS: Final[list[Callable[[int], object]]] = [
    lambda value: value,
    lambda value: -value,
    lambda value: value - 1,
    lambda value: value - 2,
    lambda value: value << 40,
    lambda value: value % 2 == 0,
    Number,
    float,
    str,
    lambda _: None,
    lambda _: Number("no number"),
    lambda _: Number(ZeroDivisionError("no number today")),
]
DELIMITERS: Final[list[Make]] = [
    lambda: b"\n",
    lambda: b"\0",
    lambda: b"a",
    lambda: b"\r",
    lambda: b"",
    lambda: b"\r\n",
    lambda: Bytes(b"\n"),
    lambda: bytearray(b"\n"),
    lambda: "\n",
    lambda: 10,
    lambda: None,
]


class Inputs:
    """Makes arguments, most of them good."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def few(self, most: int) -> int:
        return self.rng.randrange(most + 1)

    def data(self) -> bytes:
        if self.rng.random() < 0.3:
            return bytes(self.rng.choices(b"a\n\r\0", k=self.few(12)))
        return self.rng.randbytes(self.few(40) if self.rng.random() < 0.9 else self.few(3000))

    def buffer(self, data: bytes) -> Make:
        if self.rng.random() < 0.6:
            return lambda: data
        if self.rng.random() < 0.1:
            return self.rng.choice(STRANGERS)
        wrap = self.rng.choice(BUFFERS)
        return lambda: wrap(data)

    def message(self) -> Make:
        return self.buffer(self.data())

    def messages(self) -> Make:
        wrap = self.rng.choice(CONTAINERS) if self.rng.random() < 0.3 else list
        if self.rng.random() < 0.5:
            items: list[object] = [self.data() for _ in range(self.few(8))]
            return lambda: wrap(items)
        makes = [self.message() for _ in range(self.few(5))]
        if self.rng.random() < 0.05:
            return self.rng.choice([*STRANGERS, self.message()])
        return lambda: wrap([make() for make in makes])

    def number(self) -> Make:
        value = self.few(60) if self.rng.random() < 0.6 else self.rng.choice(EDGES)
        wrap = self.rng.choice(NUMBERS) if self.rng.random() < 0.3 else NUMBERS[0]
        return lambda: wrap(value)

    def start(self) -> Make:
        value = self.few(4)
        return self.number() if self.rng.random() < 0.2 else lambda: value

    def delimiter(self) -> Make:
        return self.rng.choice(DELIMITERS if self.rng.random() < 0.1 else DELIMITERS[:4])

    def mutated(self, data: bytes) -> bytes:
        """Return the data, damaged now and then."""
        spoiled = bytearray(data)
        while self.rng.random() < 0.3:
            position = self.few(len(spoiled))
            match self.few(4):
                case 0:
                    spoiled[position : position + 1] = self.rng.randbytes(self.few(2))
                case 1:
                    del spoiled[position:]
                case 2:
                    spoiled[position : position + 4] = spoiled[: self.few(8)]
                case 3:
                    spoiled[position : position + 4] = b"\xff" * 4
                case _:
                    spoiled += self.data()
        return bytes(spoiled)

    def payload(self) -> Make:
        bodies = [self.data() for _ in range(1 + self.few(6))]
        first_seq = self.rng.choice([self.few(9), 2**63 - 1 - len(bodies), 2**63 - len(bodies)])
        numbered = first_seq.to_bytes(8, "little") + python.pack_batch(bodies, 0)[16:]
        return self.buffer(self.mutated(numbered))

    def frames(self) -> Make:
        data = b""
        for _ in range(1 + self.few(3)):
            bodies = [self.data() for _ in range(1 + self.few(4))]
            data += python.pack_batch(bodies, self.few(9) if self.rng.random() < 0.2 else len(data))
        return self.buffer(self.mutated(data))

    def following(self) -> Make:
        """Make frames whose numbers follow on each other."""
        data, seq = b"", 0
        for _ in range(1 + self.few(3)):
            bodies = [self.data() for _ in range(1 + self.few(4))]
            data += python.pack_batch(bodies, seq)
            seq += len(bodies)
        return self.buffer(self.mutated(data)) if self.rng.random() < 0.8 else self.frames()

    def length(self) -> Make:
        value = self.rng.choice([16, 24, 40, 2**32, -1, 2**70])
        return self.number() if self.rng.random() < 0.2 else lambda: value

    def lines(self) -> Make:
        bodies = [bytes(self.rng.choices(b"ab\n\r\0", k=self.few(6))) for _ in range(self.few(9))]
        mark = self.rng.choice([b"\n", b"\r\n", b"\0", b"a"])
        return self.buffer(self.mutated(b"".join(body + mark for body in bodies)))

    def impossible(self) -> Make:
        """Make a size that no room has: what was never written may be anything."""
        return constant(self.rng.choice([-1, 0, 10**9, 2**70, -(2**70), "1", None, 1.0]))

    def piece(self) -> Make:
        piece = bytes(self.rng.choice([0, 1, 10, 100, 1000, 17_000]))
        return self.rng.choice([lambda: piece, lambda: memoryview(piece), lambda: bytearray(piece)])

    def lengths(self) -> Make:
        byteorder: Literal["big", "little"] = self.rng.choice(["big", "little"])
        packed = python.pack_length([self.data() for _ in range(4)], byteorder)
        return self.buffer(self.mutated(packed))

    def byteorder(self) -> Make:
        value = self.rng.choice(["big", "little"] * 5 + ["", "BIG", b"big", None, 1])
        return lambda: value


ARGUMENTS: Final[dict[str, tuple[Callable[[Inputs], Make], ...]]] = {
    "to_bytes": (Inputs.message,),
    "longest": (Inputs.messages,),
    "pack_batch": (Inputs.messages, Inputs.number),
    "scan_batch": (Inputs.payload,),
    "scan_batches": (Inputs.following, Inputs.start, Inputs.length),
    "scan_head": (Inputs.payload, Inputs.length),
    "split_batch": (Inputs.payload, Inputs.start),
    "iter_batch": (Inputs.payload, Inputs.start),
    "pack_delimited": (Inputs.messages, Inputs.delimiter),
    "scan_delimited": (Inputs.lines, Inputs.delimiter),
    "split_delimited": (Inputs.lines, Inputs.delimiter),
    "pack_length": (Inputs.messages, Inputs.byteorder),
    "scan_length": (Inputs.lengths, Inputs.number, Inputs.byteorder),
    "split_length": (Inputs.lengths, Inputs.byteorder),
}
ASSEMBLY_ARGUMENTS: Final[dict[str, tuple[Callable[[Inputs], Make], ...]]] = {
    "advance": (Inputs.impossible,),
    "extend": (Inputs.piece,),
    "take": (),
}
PACKER_ARGUMENTS: Final[dict[str, tuple[Callable[[Inputs], Make], ...]]] = {
    "open": (Inputs.number,),
    "append": (Inputs.message,),
    "extend": (Inputs.messages, Inputs.start),
    "try_extend": (Inputs.messages,),
    "take": (Inputs.number,),
    "close": (),
    "__len__": (),
}


class Call(NamedTuple):
    """A function and its arguments, still to be made."""

    name: str
    arguments: tuple[Make, ...]

    def of(self, twin: object) -> object:
        """Call the twin; return all there is to compare."""
        try:
            result = getattr(twin, self.name)(*[make() for make in self.arguments])
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is compared
            return type(exc), str(exc)
        return described(result)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(repr(make()) for make in self.arguments)})"


def constant(value: object) -> Make:
    return lambda: value


def described(result: object) -> object:
    """Return a result with the types of all that is in it."""
    if isinstance(result, list | tuple):
        return type(result), [described(item) for item in result]
    if isinstance(result, Iterator):
        hint = length_hint(result)
        return hint, [described(item) for item in result]
    return type(result), result


def some_call(rng: random.Random, of: dict[str, tuple[Callable[[Inputs], Make], ...]]) -> Call:
    inputs = Inputs(rng)
    name = rng.choice(list(of))
    return Call(name, tuple(make(inputs) for make in of[name]))


def compare_functions(c: ModuleType, rng: random.Random) -> None:
    call = some_call(rng, ARGUMENTS)
    assert call.of(c) == call.of(python), call


def compare_packers(c: ModuleType, rng: random.Random) -> None:
    """Do the same to a packer of each twin, and compare them after every step."""
    making = Call("Packer", (Inputs(rng).number(),))
    try:
        twins = (c.Packer(making.arguments[0]()), python.Packer(making.arguments[0]()))  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - whatever it is, it is compared
        assert making.of(c) == making.of(python), making
        return
    done = [making]
    for _ in range(rng.randrange(12)):
        call = Call("open", (lambda: 200,))
        if rng.random() < 0.8:
            call = some_call(rng, PACKER_ARGUMENTS)
        done.append(call)
        answers = [call.of(twin) for twin in twins]
        if call.name == "take":  # in how many pieces it comes is each twin's own business
            answers = [whole(answer) for answer in answers]
        assert answers[0] == answers[1], done
        assert len(twins[0]) == len(twins[1]), done
        assert twins[0].cost == twins[1].cost, done
    assert whole(taken(twins[0])) == whole(taken(twins[1])), done


def taken(packer: Any) -> object:
    return Call("take", (constant(0),)).of(packer)


def whole(answer: Any) -> object:
    """Put the pieces together of what ``take`` gave, as described."""
    if answer[0] is not tuple:
        return answer
    count, head, (kind, pieces) = answer[1]
    assert all(piece[0] is bytes for piece in pieces)
    return count, head, kind, b"".join(piece[1] for piece in pieces)


def compare_assemblies(c: ModuleType, rng: random.Random) -> None:
    """Do the same to an assembly of each twin, and compare them after every step."""
    trusted = rng.random() < 0.3
    sizes = constant([rng.randrange(100) ** 2 for _ in range(rng.randrange(5))])
    if rng.random() < 0.2:
        numbers = [Inputs(rng).number() for _ in range(rng.randrange(3))]
        sizes = lambda: [number() for number in numbers]  # noqa: E731
        trusted = False  # or the memory were set aside
    making = Call("Assembly", (sizes, constant(trusted)))
    try:
        twins = tuple(twin.Assembly(*[a() for a in making.arguments]) for twin in (c, python))
    except Exception:  # noqa: BLE001 - whatever it is, it is compared
        assert making.of(c) == making.of(python), making
        return
    done = [making]
    for _ in range(rng.randrange(12)):
        call = some_call(rng, ASSEMBLY_ARGUMENTS)
        done.append(call)
        if rng.random() < 0.5:  # bytes are read into the room
            rooms = [list(map(len, twin.rooms())) for twin in twins]
            assert rooms[0] == rooms[1], done
            size = rng.randint(0, sum(rooms[0]))
            call = Call("advance", (constant(size),))
            done.append(call)
            for twin in twins:
                fill_rooms(twin, size)
        assert call.of(twins[0]) == call.of(twins[1]), done
        assert twins[0].filled == twins[1].filled, done
        assert twins[0].missing == twins[1].missing, done


def fill_rooms(assembly: Any, size: int) -> None:
    for room in assembly.rooms():
        with room:
            room[:size] = b"x" * min(size, len(room))
            size = max(0, size - len(room))


# -- the comparison -------------------------------------------------------------------------


@NEEDS_C
@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_functions_answer_alike(c: ModuleType, rng: random.Random) -> None:
    """Both twins give the same values, types and errors, to the word."""
    compare_functions(c, rng)


@NEEDS_C
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_packers_answer_alike(c: ModuleType, rng: random.Random) -> None:
    """Whatever is done to a packer, the other twin's goes the same way."""
    compare_packers(c, rng)


@NEEDS_C
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_assemblies_answer_alike(c: ModuleType, rng: random.Random) -> None:
    """Whatever is done to an assembly, the other twin's goes the same way."""
    compare_assemblies(c, rng)


def compare_many(c: ModuleType, rng: random.Random, inputs: int) -> None:
    for number in range(inputs):
        compare = {0: compare_packers, 1: compare_assemblies}.get(number % 8, compare_functions)
        compare(c, rng)


@NEEDS_C
def test_twins_answer_alike_to_random_input(c: ModuleType, chance: Chance) -> None:
    """Thousands of random calls, many of them hostile, find no difference."""
    compare_many(c, chance, 10_000)


@NEEDS_C
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twins_answer_alike_to_a_million_inputs(c: ModuleType, chance: Chance) -> None:
    """A million random calls find no difference."""
    compare_many(c, chance, SOAK_INPUTS)


@NEEDS_C
@pytest.mark.parametrize("name", [*ARGUMENTS, "Packer"])
def test_calls_that_no_signature_allows_are_refused(c: ModuleType, name: str) -> None:
    """Too few arguments, too many, or named ones are a TypeError of either twin."""
    for twin in (c, python):
        function = getattr(twin, name)
        for arguments, named in [((), {}), ((b"",) * 3, {}), ((), {"payload": b""})]:
            with pytest.raises(TypeError):
                function(*arguments, **named)


@NEEDS_C
def test_batch_one_byte_too_large_is_refused(c: ModuleType) -> None:
    """The limit of 4 GiB is the same to the byte; nothing is allocated to find out."""
    part = bytes(1 << 24)
    rest = bytes((1 << 24) - 16 - 4 - 256 * 4)
    for twin in (c, python):
        with pytest.raises(ValueError, match=r"^a batch must be shorter than 4 GiB$"):
            twin.pack_batch([part] * 255 + [rest], 0)


@NEEDS_C
def test_no_call_keeps_memory(c: ModuleType) -> None:
    """What a call allocates is free afterwards, whether it succeeded or failed."""
    calls = [some_call(random.Random(seed), ARGUMENTS) for seed in range(400)]

    def run() -> int:
        for call in calls:
            call.of(c)
        for seed in range(100):
            compare_packers(c, random.Random(seed))
        gc.collect()
        return sys.getallocatedblocks()

    run()
    before = run()
    assert max(run() for _ in range(3)) - before < 100


@NEEDS_C
def test_no_call_keeps_its_arguments(c: ModuleType) -> None:
    """The references to messages and containers are given back."""
    message, messages, other = bytes(100), [bytes(100)], bytearray(100)
    packer = c.Packer(1000)

    def run() -> list[int]:
        packer.open(500)
        packer.append(message)
        packer.append(other)
        packer.extend(messages, 0)
        packer.extend((message, other, 5), 0)
        packer.try_extend((message, other))
        packer.take(0)
        list(c.iter_batch(c.pack_batch(messages, 0)[8:], 0))
        c.pack_batch((message, other), 0)
        c.pack_delimited(messages, b"\n")
        c.pack_length(messages, "big")
        c.to_bytes(other)
        return [sys.getrefcount(thing) for thing in (message, messages, messages[0], other)]

    assert run() == [run() for _ in range(100)][-1]
    other.append(0)  # no call exports it still


# -- the choice -----------------------------------------------------------------------------

CHOICE: Final = """
import sys
if {missing}:
    sys.modules["mpsr._speedups._c"] = None
try:
    from mpsr._speedups import IN_C, codec
except Exception as exc:
    print(type(exc).__name__, exc)
else:
    print("C" if IN_C else "Python", codec.pack_batch.__module__, codec.Packer.__module__)
"""
C_CHOSEN: Final = "C mpsr._speedups._c mpsr._speedups._c"
PYTHON_CHOSEN: Final = "Python mpsr._speedups.codec_py mpsr._speedups.codec_py"


def choose(speedups: str | None, *, missing: bool = False) -> str:
    environment = {**os.environ, "MPSR_SPEEDUPS": speedups or ""}
    if speedups is None:
        del environment["MPSR_SPEEDUPS"]
    command = [sys.executable, "-c", CHOICE.format(missing=missing)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_c_twin_is_there_where_it_is_required() -> None:
    """A run that requires the C twin does not pass without it."""
    if os.environ.get("MPSR_SPEEDUPS") == "require":
        assert find_spec("mpsr._speedups._c") is not None


@NEEDS_C
@pytest.mark.parametrize("speedups", [None, "", "auto", "require"])
def test_c_twin_is_chosen_where_it_is_built(speedups: str | None) -> None:
    """All functions come from the C twin, unless it is refused."""
    assert choose(speedups) == C_CHOSEN


@pytest.mark.parametrize("missing", [False, True])
def test_python_twin_is_chosen_when_speedups_are_off(*, missing: bool) -> None:
    """Off is off, whatever is built."""
    assert choose("off", missing=missing) == PYTHON_CHOSEN


@pytest.mark.parametrize("speedups", [None, "", "auto"])
def test_python_twin_stands_in_where_the_other_is_missing(speedups: str | None) -> None:
    """Without a C twin everything works, only slower."""
    assert choose(speedups, missing=True) == PYTHON_CHOSEN


def test_require_fails_where_the_c_twin_is_missing() -> None:
    """The error says how to get it."""
    text = choose("require", missing=True)
    assert text.startswith(
        "MpsrError MPSR_SPEEDUPS=require cannot be met: the C extension is not installed: "
    )
    assert "pip install" in text


@pytest.mark.parametrize("speedups", ["on", " ", "REQUIRE"])
def test_other_choices_are_refused(speedups: str) -> None:
    """A misspelt choice is not taken for another."""
    expected = f"ConfigurationError MPSR_SPEEDUPS={speedups}: choose one of auto, require, off"
    assert choose(speedups) == expected
