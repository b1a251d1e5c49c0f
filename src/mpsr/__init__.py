"""Many producers, single receiver: messages between processes over a Unix domain socket.

A name's module is imported when the name is first used. So the package costs nothing to import,
and the command can take signals before anything else.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # what typing would say, which takes long to import
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from mpsr import logging as logging  # public, but not for a star import
    from mpsr import systemd
    from mpsr.aio.producer import AsyncProducer
    from mpsr.aio.receiver import AsyncReceiver
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
        FilesRefused,
        InvalidAddress,
        JournalDamaged,
        JournalDenied,
        JournalError,
        JournalFull,
        JournalInUse,
        LocalProtocolError,
        MessageError,
        MessageRejected,
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
        SinkError,
        TimedOut,
        Undelivered,
        UnframeableMessage,
        WrongReceiver,
        WrongSocketType,
        WrongType,
    )
    from mpsr.forwarding import Forwarded, Origin, OriginPeer, OriginProducer, forwarded
    from mpsr.front.listening import Endpoint
    from mpsr.queues import QueueReader, QueueWriter, queue
    from mpsr.stats import CursorStats, JournalStats, ProducerStats, ReceiverStats
    from mpsr.sync.producer import Producer
    from mpsr.sync.receiver import Receiver
    from mpsr.syslog_format import SyslogMessage, syslog

__version__ = "0.1.0"

_MODULES = {
    "AsyncProducer": "aio.producer",
    "AsyncReceiver": "aio.receiver",
    "Batch": "batch",
    "CursorStats": "stats",
    "Endpoint": "front.listening",
    "JournalStats": "stats",
    "Forwarded": "forwarding",
    "Origin": "forwarding",
    "OriginPeer": "forwarding",
    "OriginProducer": "forwarding",
    "Peer": "batch",
    "Producer": "sync.producer",
    "ProducerIdentity": "batch",
    "ProducerStats": "stats",
    "QueueReader": "queues",
    "QueueWriter": "queues",
    "Receiver": "sync.receiver",
    "ReceiverStats": "stats",
    "SyslogMessage": "syslog_format",
    "forwarded": "forwarding",
    "queue": "queues",
    "syslog": "syslog_format",
}  # all others are exceptions

_SUBMODULES = ("logging", "metrics", "observe", "systemd")

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
    "CursorStats",
    "DecodeError",
    "Endpoint",
    "FilesRefused",
    "Forwarded",
    "InvalidAddress",
    "JournalDamaged",
    "JournalDenied",
    "JournalError",
    "JournalFull",
    "JournalInUse",
    "JournalStats",
    "LocalProtocolError",
    "MessageError",
    "MessageRejected",
    "MessageTooLarge",
    "MpsrError",
    "NewerJournal",
    "NoJournal",
    "NoReceiver",
    "NotAJournal",
    "NotSent",
    "Origin",
    "OriginPeer",
    "OriginProducer",
    "Peer",
    "Producer",
    "ProducerIdentity",
    "ProducerStats",
    "ProtocolError",
    "QueueReader",
    "QueueWriter",
    "Receiver",
    "ReceiverBusy",
    "ReceiverStats",
    "ReentrantCall",
    "Rejected",
    "RemoteProtocolError",
    "SendTimedOut",
    "SinkError",
    "SyslogMessage",
    "TimedOut",
    "Undelivered",
    "UnframeableMessage",
    "WrongReceiver",
    "WrongSocketType",
    "WrongType",
    "forwarded",
    "observe",
    "queue",
    "syslog",
    "systemd",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - each is what its module says
    if name not in __all__ and name not in _SUBMODULES:
        error = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(error)
    path = name if name in _SUBMODULES else _MODULES.get(name, "errors")
    try:
        module = _imported(path)
    except ImportError:
        if sys.meta_path is not None:
            raise
        error = (
            f"mpsr.{name} cannot be loaded: it was not used before, and at the end of the program "
            f"Python imports nothing; put `from mpsr import {name}` at the top of the module"
        )
        raise ImportError(error, name=f"mpsr.{path}") from None
    if name in _SUBMODULES:
        return module
    _bind()
    return globals()[name]


def _bind() -> None:
    """Bind all names of modules that are loaded, so that they can be used at the program's end."""
    for name in __all__:
        module = sys.modules.get(f"mpsr.{_MODULES.get(name, 'errors')}")
        if name not in _SUBMODULES and hasattr(module, name):
            globals()[name] = getattr(module, name)


def _imported(name: str) -> ModuleType:  # noqa: C901, PLR0912 - a table
    """Return a module of the package, which is imported now.

    Each is imported by a statement: programs that freeze others, such as PyInstaller, do not find
    modules that are named by a text.
    """
    match name:
        case "aio.producer":
            import mpsr.aio.producer
        case "aio.receiver":
            import mpsr.aio.receiver
        case "batch":
            import mpsr.batch
        case "errors":
            import mpsr.errors
        case "forwarding":
            import mpsr.forwarding
        case "front.listening":
            import mpsr.front.listening
        case "logging":
            import mpsr.logging
        case "metrics":
            import mpsr.metrics
        case "observe":
            import mpsr.observe
        case "queues":
            import mpsr.queues
        case "stats":
            import mpsr.stats
        case "sync.producer":
            import mpsr.sync.producer
        case "sync.receiver":
            import mpsr.sync.receiver
        case "syslog_format":
            import mpsr.syslog_format
        case "systemd":
            import mpsr.systemd  # noqa: F401 - it is returned from sys.modules
        case _:
            raise AssertionError(name)
    return sys.modules[f"mpsr.{name}"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
