"""Show Prometheus the counters of receivers and producers.

``Collector`` belongs in a registry of prometheus-client (``pip install 'mpsr[metrics]'``)::

    from prometheus_client import REGISTRY
    from mpsr.metrics import Collector

    REGISTRY.register(Collector(receiver))

The names follow https://prometheus.io/docs/practices/naming/. No label tells producers apart: each
value of a label is a series that Prometheus keeps, and processes come and go.
"""

from __future__ import annotations

import sys
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr import _speedups
from mpsr.errors import Closed, WrongType
from mpsr.front.following import sinks_of
from mpsr.front.producer import ProducerBase
from mpsr.front.receiver import ReceiverBase
from mpsr.names import in_utf8

try:
    from prometheus_client import registry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
except ImportError as _missing:
    error = "mpsr.metrics needs prometheus-client: pip install 'mpsr[metrics]'"
    raise ImportError(error) from _missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeAlias

    from prometheus_client.core import Metric as Family

    Rows: TypeAlias = Iterable[
        tuple[tuple[str, ...], float]
    ]  # labels but the address, and a number

__all__ = ["Collector"]


class Metric(NamedTuple):
    """A metric: its name on the page, and how its numbers come of what is looked at."""

    name: str
    """With ``_total`` if it is a counter; else it is a gauge."""
    help: str
    of: Callable[[Any], Rows]
    labels: tuple[str, ...] = ("address",)

    def family(self) -> CounterMetricFamily | GaugeMetricFamily:
        """Return the metric without a number."""
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        return kind(self.name, self.help, labels=self.labels)


def _field(name: str) -> Callable[[Any], Rows]:
    """Return what gives one field of stats."""
    return lambda stats: [((), float(getattr(stats, name)))]


RECEIVER: Final = (
    Metric(
        "mpsr_received_messages_total",
        "Messages received: handed out, or with a journal committed to it.",
        _field("messages"),
    ),
    Metric(
        "mpsr_received_bytes_total", "Bytes of these messages, without framing.", _field("nbytes")
    ),
    Metric("mpsr_received_batches_total", "Batches of these messages.", _field("batches")),
    Metric(
        "mpsr_lost_messages_total", "Messages that producers reported as dropped.", _field("lost")
    ),
    Metric("mpsr_connections", "Connections open now.", _field("connections")),
    Metric("mpsr_accepted_connections_total", "Connections accepted.", _field("accepted")),
    Metric(
        "mpsr_rejected_total",
        "Connections closed, or datagrams discarded, for breaking a rule.",
        _field("rejected"),
    ),
    Metric(
        "mpsr_refused_total",
        "Connections and datagrams of those who may not send.",
        _field("refused"),
    ),
    Metric(
        "mpsr_discarded_bytes_total",
        "Bytes of foreign messages that were read and not handed out when the receiver closed.",
        _field("discarded"),
    ),
    Metric(
        "mpsr_paused",
        "1 while accepting is suspended because connections or descriptors ran out, or it is "
        "refused.",
        _field("paused"),
    ),
    Metric("mpsr_limited", "1 while a user is at a limit of its own.", _field("limited")),
    Metric(
        "mpsr_consumer_batch_seconds",
        "Seconds for which the handler has had its batch; 0 while it has none.",
        _field("in_hand"),
    ),
)

JOURNAL: Final = (
    Metric("mpsr_journal_bytes", "Bytes that the journal takes on the disk.", _field("nbytes")),
    Metric(
        "mpsr_journal_limit_bytes", "Bytes that the journal may take on the disk.", _field("limit")
    ),
    Metric("mpsr_journal_full", "1 while a message waits for room in the journal.", _field("full")),
    Metric(
        "mpsr_journal_positions_total",
        "Positions of the journal given to messages, since it was made.",
        lambda stats: [((), stats.next - 1)],
    ),
    Metric(
        "mpsr_journal_kept_messages",
        "Positions of the journal that are kept.",
        lambda stats: [((), stats.next - stats.first)],
    ),
    Metric(
        "mpsr_journal_cursor_lag_messages",
        "Positions committed that a cursor has still to pass.",
        lambda stats: [((name,), cursor.lag) for name, cursor in stats.cursors.items()],
        ("address", "cursor"),
    ),
)

SINKS: Final = (
    Metric(
        "mpsr_sink_lag_messages",
        "Messages of the journal that a sink has not committed.",
        lambda sinks: [((each["name"],), each["lag"]) for each in sinks],
        ("address", "sink"),
    ),
    Metric(
        "mpsr_sink_rejected_total",
        "Messages that a sink can never write, and that were stored elsewhere.",
        lambda sinks: [((each["name"],), each["rejected"]) for each in sinks],
        ("address", "sink"),
    ),
    Metric(
        "mpsr_sink_failing",
        "1 while a sink fails; mpsr status says why.",
        lambda sinks: [((each["name"],), float(bool(each["error"]))) for each in sinks],
        ("address", "sink"),
    ),
    Metric(
        "mpsr_sink_delivered_messages_total",
        "Messages that a sink has committed.",
        lambda sinks: [((each["name"],), each["delivered"]) for each in sinks],
        ("address", "sink"),
    ),
    Metric(
        "mpsr_sink_delivered_bytes_total",
        "Bytes of these messages.",
        lambda sinks: [((each["name"],), each["delivered_bytes"]) for each in sinks],
        ("address", "sink"),
    ),
)

PRODUCER: Final = (
    Metric(
        "mpsr_producer_sent_messages_total",
        "Messages taken from the callers of producers.",
        _field("sent"),
    ),
    Metric(
        "mpsr_producer_accepted_messages_total",
        "Messages of producers that the receiver accepted.",
        _field("accepted"),
    ),
    Metric("mpsr_producer_lost_messages_total", "Messages that producers dropped.", _field("lost")),
    Metric(
        "mpsr_producer_buffered_messages",
        "Messages of producers that are not accepted yet.",
        _field("buffered"),
    ),
    Metric(
        "mpsr_producer_buffered_bytes",
        "Bytes of buffer that producers use.",
        _field("buffered_bytes"),
    ),
    Metric(
        "mpsr_producer_connects_total", "Connections that producers have made.", _field("connects")
    ),
    Metric(
        "mpsr_producer_connected", "Producers whose receiver has answered.", _field("connected")
    ),
    Metric("mpsr_producers", "Producers that are looked at.", lambda _: [((), 1)]),
)

BUILD: Final[InfoMetricFamily] = InfoMetricFamily(
    "mpsr_build",
    "The version of mpsr, and what its codec is written in.",
    {"version": sys.modules["mpsr"].__version__, "codec": "C" if _speedups.IN_C else "Python"},
)


class Collector(registry.Collector):
    """Gives a registry the numbers of receivers and producers, as they are at each scrape.

    Every number has the label ``address``, where its receiver receives or its producer sends (of
    several addresses the first); of several receivers or producers with one address the sum is
    given. To look takes no lock of a receiver: a scrape is answered while a handler stands still.

    Args:
        source: a Receiver, AsyncReceiver, Producer or AsyncProducer.
        more: further ones. All are kept as long as the collector: their counters go on counting
            in the sums after they were closed.

    Raises:
        WrongType: one is none of these.

    """

    def __init__(
        self,
        source: ReceiverBase[Any] | ProducerBase[Any],
        *more: ReceiverBase[Any] | ProducerBase[Any],
    ) -> None:
        sources = (source, *more)
        for each in sources:
            if not isinstance(each, ReceiverBase | ProducerBase):
                raise WrongType(f"{each!r} is no receiver or producer: pass one of mpsr's")
        self._receivers = [each for each in sources if isinstance(each, ReceiverBase)]
        self._producers = [each for each in sources if isinstance(each, ProducerBase)]

    def describe(self) -> Iterator[Family]:
        """Yield every metric without a number: what a registry checks for names given twice."""
        for metric in chain(RECEIVER, JOURNAL, SINKS, PRODUCER):
            yield metric.family()
        yield BUILD

    def collect(self) -> Iterator[Family]:
        """Yield every metric with its numbers of now.

        In a forked child those of a receiver, which is the parent's, are left out.
        """
        yield BUILD
        yield from _families(RECEIVER, _looked_at(self._receivers, lambda each: each.stats()))
        journals = _looked_at(self._receivers, lambda each: each.journal_stats())
        yield from _families(JOURNAL, journals)
        yield from _families(
            SINKS, _looked_at(self._receivers, lambda each: sinks_of(each) or None)
        )
        yield from _families(PRODUCER, _looked_at(self._producers, lambda each: each.stats()))


def _looked_at(sources: Iterable[Any], look: Callable[[Any], Any]) -> list[tuple[str, Any]]:
    """Return what each source shows now, with its address."""
    found = []
    for each in sources:
        try:
            seen = look(each)
        except Closed:  # it is the parent process's
            continue
        if seen is not None:
            found.append((in_utf8(str(each.address)), seen))
    return found


def _families(metrics: Iterable[Metric], seen: list[tuple[str, Any]]) -> Iterator[Family]:
    for metric in metrics if seen else ():
        sums: dict[tuple[str, ...], float] = {}
        for address, stats in seen:
            for labels, number in metric.of(stats):
                key = (address, *map(in_utf8, labels))
                sums[key] = sums.get(key, 0) + number
        family = metric.family()
        for key, number in sums.items():
            family.add_metric(key, number)
        yield family
