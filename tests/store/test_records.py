"""Records to bytes and back, and what tells that they are not what was written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpsr.batch import Peer, ProducerIdentity
from mpsr.store.records import (
    HEADER_SIZE,
    MAX_HEAD,
    VERSION,
    Changes,
    Entry,
    Header,
    Kind,
    KnownProducer,
    Place,
    pack_changes,
    pack_entry,
    pack_header,
    pack_record,
    unpack_changes,
    unpack_entry,
    unpack_head,
    unpack_header,
)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
ids = st.binary(min_size=16, max_size=16)
numbers = st.none() | st.integers(0, 2**63 - 1)
headers = st.builds(Header, ids, st.sampled_from([1, 2]), u64)
places = st.builds(Place, ids, st.sampled_from([1, 2]), u64, u64, u64, u64)
printable = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
labels = st.text(printable, max_size=60).filter(lambda label: len(label.encode()) <= 255)
identities = st.builds(ProducerIdentity, ids, labels)
entries = st.builds(
    Entry,
    st.binary(),
    length=u64,
    nbytes=u64,
    first_seq=u64,
    lost=u64,
    peer=st.builds(Peer, numbers, numbers, numbers),
    producer=st.none() | identities,
    epoch=u32,
    received_at=st.integers(-(2**63), 2**63 - 1),
)
states = st.builds(KnownProducer, numbers, identities, u32, u64)
changes = st.builds(
    Changes,
    st.dictionaries(st.text(max_size=20), st.none() | st.integers(0, 2**64 - 2), max_size=4),
    st.lists(states, max_size=4),
    st.lists(st.tuples(numbers, ids), max_size=4),
)


@given(headers, st.integers(0, 8 * HEADER_SIZE - 1))
def test_header_comes_back_and_no_bit_of_it_can_change(header: Header, bit: int) -> None:
    packed = pack_header(header)
    assert len(packed) == HEADER_SIZE
    assert unpack_header(packed + b"more") == (header, VERSION)
    assert unpack_header(packed[:-1]) is None
    assert unpack_header(flipped(packed, bit)) is None


@given(places, entries, st.data())
def test_batch_comes_back_and_no_bit_of_its_head_can_change(
    place: Place, entry: Entry, data: st.DataObject
) -> None:
    packed = pack_entry(entry, place)
    assert len(packed) <= MAX_HEAD
    head = unpack_head(b"before" + packed + b"behind", 6)
    assert head is not None
    assert (head.kind, head.place, head.size) == (Kind.BATCH, place, len(packed))
    assert head.end == place.offset + len(packed) + len(bytes(entry.payload))
    assert unpack_entry(head, entry.payload)._replace(checksum=None) == entry
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    assert unpack_head(flipped(packed, bit), 0) is None
    assert unpack_head(packed[:-1], 0) is None


@given(places, changes)
def test_changes_come_back(place: Place, changes: Changes) -> None:
    payload = pack_changes(changes)
    assert unpack_changes(payload) == changes
    record = pack_record(Kind.CHANGES, place, payload)
    head = unpack_head(record, 0)
    assert head is not None
    assert record[head.size :] == payload
    assert (head.kind, head.place, head.end) == (Kind.CHANGES, place, place.offset + len(record))


def flipped(data: bytes, bit: int) -> bytes:
    """Return the bytes with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
