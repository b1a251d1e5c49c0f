"""Many producers, single receiver: messages between processes over a Unix domain socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpsr.batch import Batch, Peer, ProducerIdentity
from mpsr.errors import (
    AddressDenied,
    AddressError,
    AddressInUse,
    AddressOccupied,
    BufferFull,
    Closed,
    ConfigurationError,
    DecodeError,
    InvalidAddress,
    JournalDamaged,
    JournalDenied,
    JournalError,
    JournalFull,
    JournalInUse,
    LocalProtocolError,
    MessageError,
    MessageTooLarge,
    MpsrError,
    NewerJournal,
    NoJournal,
    NoReceiver,
    NotAJournal,
    NotSent,
    ProtocolError,
    ReceiverBusy,
    ReentrantCall,
    Rejected,
    RemoteProtocolError,
    SendTimedOut,
    TimedOut,
    Undelivered,
    UnframeableMessage,
    WrongSocketType,
    WrongType,
)
from mpsr.inbox import ReceiverStats
from mpsr.outbox import ProducerStats
from mpsr.producer import Producer
from mpsr.receiver import Receiver

if TYPE_CHECKING:
    from mpsr.aio import AsyncProducer, AsyncReceiver

__version__ = "0.1.0"

__all__ = [
    "AddressDenied",
    "AddressError",
    "AddressInUse",
    "AddressOccupied",
    "AsyncProducer",
    "AsyncReceiver",
    "Batch",
    "BufferFull",
    "Closed",
    "ConfigurationError",
    "DecodeError",
    "InvalidAddress",
    "JournalDamaged",
    "JournalDenied",
    "JournalError",
    "JournalFull",
    "JournalInUse",
    "LocalProtocolError",
    "MessageError",
    "MessageTooLarge",
    "MpsrError",
    "NewerJournal",
    "NoJournal",
    "NoReceiver",
    "NotAJournal",
    "NotSent",
    "Peer",
    "Producer",
    "ProducerIdentity",
    "ProducerStats",
    "ProtocolError",
    "Receiver",
    "ReceiverBusy",
    "ReceiverStats",
    "ReentrantCall",
    "Rejected",
    "RemoteProtocolError",
    "SendTimedOut",
    "TimedOut",
    "Undelivered",
    "UnframeableMessage",
    "WrongSocketType",
    "WrongType",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the async fronts, loaded where used: anyio is not light
    if name in ("AsyncProducer", "AsyncReceiver"):
        from mpsr import aio  # noqa: PLC0415

        return getattr(aio, name)
    error = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(error)
