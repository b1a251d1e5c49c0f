"""Name every default limit, with its unit and its reason."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

MAX_INTEGER: Final = 2**63 - 1  # SQL, Arrow and most readers of JSON have signed 64 bits
MAX_JSON_DEPTH: Final = 32  # containers within each other: far from any reader's own limit
LONGEST_TIMEOUT: Final = 1e9  # seconds: the system counts a wait in 63 bits of nanoseconds

# -- messages and frames --------------------------------------------------------------------

MAX_MESSAGE: Final = 16 * MIB  # bytes: one message must fit a receiver's memory budget
FRAME_OVERHEAD: Final = 24  # bytes: what a BATCH payload of one message adds to its body
LARGEST_MESSAGE: Final = 4 * 1024 * MIB - 64  # bytes: with its frame, lengths are 32 bits wide
MAX_CONTROL_FRAME: Final = 4 * KIB  # bytes: HELLO, LOST, ACK, REJECT and BYE are small
LEAST_MAX_MESSAGE: Final = MAX_CONTROL_FRAME - FRAME_OVERHEAD  # bytes: a frame may be that long
MAX_LABEL: Final = 255  # bytes of UTF-8: a label is a name, not a message
BATCH_TARGET: Final = 384 * KIB  # bytes: what is done once a batch is then lost in what it holds
FIRST_READ: Final = 64 * KIB  # bytes: one bounded read, where little comes
LONG_MESSAGE: Final = 8 * KIB  # bytes: a message so long is not copied into a batch, but held
LONG_BATCH_TARGET: Final = 1 * MIB  # bytes: a batch of them, which needs no memory of its own
READ_SIZE: Final = 512 * KIB  # bytes: one bounded read, where much comes; about a socket buffer
RING_SIZE: Final = 1 * MIB  # bytes of a ring of shared memory: it stays in a processor's caches
RING_AFTER: Final = 4 * MIB  # bytes from a producer until it gets a ring: more is to come
MAX_RINGS: Final = 64  # rings that a receiver gives at a time: 64 MiB of memory, shared or not
MAX_RINGS_PER_UID: Final = 32  # of them to one user: half, so that the others find as many
READ_BEHIND: Final = 4 * KIB  # bytes read behind a frame that has a place: where the next begins
SEPARATE_MESSAGE: Final = 16 * KIB  # bytes: messages longer than that on average are read apart
READ_IN_PLACE: Final = 16 * KIB  # bytes: with so much of a frame missing it is read in place

KEPT_MEMORY: Final = 62 * MIB  # bytes free for the next batches: twice what glibc learns at most

MAX_HOPS: Final = 8  # funnels that pass a message on: more of them are a loop
MAX_ORIGIN: Final = 4 * KIB  # bytes of a forwarded message's origin: names and numbers

MAX_FILES: Final = 64  # files that a producer, or a receiver, holds at a time: of 1,024 descriptors
MAX_CLOSERS: Final = 16  # threads that close descriptors: as many owners never wait for each other

# -- receiver -------------------------------------------------------------------------------

DYING_OWNER: Final = 0.5  # seconds: what the kernel may take to free a killed owner's lock
BACKLOG: Final = 4096  # connections waiting to be accepted: the kernel's own usual maximum
MAX_BACKLOG: Final = 2**31 - 1  # connections: listen(2) takes a C int
MAX_CONNECTIONS: Final = 1024  # connections: bounds memory and descriptors until raised
PATH_CHECK_INTERVAL: Final = 2.0  # seconds between two checks that the path leads to our socket
PATH_TOUCH_INTERVAL: Final = 900.0  # seconds: files whose times are older may be removed
MAX_UNPLACED: Final = 16  # connections that are accepted, and wait for one that gives way
SILENT_START: Final = 0.25  # seconds: who connects has something to say, if others want the place
SILENCE: Final = 5.0  # seconds: who types by hand is quicker, and loses the place only if wanted
MAX_UNFINISHED: Final = 64 * MIB  # bytes of unfinished messages in all: four of the longest
ACCEPTS_PER_ROUND: Final = 64  # connections: a flood of connects must not starve the connected
TURN_COST: Final = 4 * KIB  # bytes: what to serve a connection costs, however little it brings
TURN_CREDIT: Final = 1 * MIB  # bytes: a user who had nothing to read catches up on so much
# A program that closes all descriptors can leave a thread waiting at a number that its next file
# got: poll(2) looks the numbers up again whenever it wakes. A shorter time wakes idle programs.
DESCRIPTOR_CHECK: Final = 5.0  # seconds: the longest that a producer's thread waits without a check
DESCRIPTOR_RESERVE: Final = 32  # descriptors left to the caller's own files
FEWER_PLACES: Final = 10.0  # seconds that there are fewer places after descriptors ran out
ACCEPT_PAUSE: Final = 0.1  # seconds: how long accepting rests after descriptors ran out
HELLO_DEADLINE: Final = 5.0  # seconds: a native producer introduces itself at once
FIRST_MESSAGE: Final = (
    0.25  # seconds from WELCOME to a message that waited for it: a busy machine's
)
FRAME_DEADLINE: Final = 10.0  # seconds: a frame, once begun, must be complete
REPLY_DEADLINE: Final = 30.0  # seconds: a peer that reads no acknowledgement so long is closed
ACK_DELAY: Final = 0.002  # seconds: how long an acknowledgement may wait to ride with others
MAX_PRODUCERS: Final = 65_536  # producers whose sequence state is kept: about 20 MiB
PRODUCER_EXPIRY: Final = 3600.0  # seconds: a producer gone so long will not send again
PACKETS_PER_READ: Final = 64  # datagrams or packets read before the caller gets them
PACKET_MEMORY: Final = 256 * MIB  # bytes of address space for them; what is untouched is no memory
HANDOVER_TIMEOUT: Final = 30.0  # seconds: what a handler may take before its receiver hands over
HANDOVER_PAUSE: Final = 0.01  # seconds until a new receiver tries again to have the address
MAX_HANDOVER: Final = (
    256 * MIB  # bytes of the state: MAX_UNFINISHED in base64, and MAX_PRODUCERS
)
HANDOVER_ANSWER: Final = 5.0  # seconds that a receiver waits to be told that all has been taken
COMPLAINTS: Final = 50  # warnings of what peers do wrong that may be logged at once
COMPLAINT_INTERVAL: Final = 1.0  # seconds until another one may be
COUNTED_UIDS: Final = 1024  # users who were refused and are counted each: more count as one
MAX_OBSERVED: Final = 4 * MIB  # bytes of a STATUS or TAP frame: 1,000 producers, or one sample
MAX_OBSERVED_NAME: Final = 4096  # characters of a name that an observer accepts: a path's longest
LATEST_TIME: Final = 2.0**37  # seconds since 1970: the year 6325, which every calendar has
STUCK_AFTER: Final = (
    1.0  # seconds with one batch in hand: longer than a handler is expected to take
)
STANDSTILL: Final = 0.25  # seconds without a round, while somebody waits to be accepted
LOOK_AGAIN: Final = 0.05  # seconds between two looks at a connection that has not said what it is
OBSERVE_AGAIN: Final = 0.5  # seconds without an answer until an observer opens a second connection
BUSY_PAUSE: Final = 0.01  # seconds until an observer tries again to enter a full backlog
UNDECIDED_TIME: Final = 2.0  # seconds that a connection has to say that it is an observer's
MAX_HELD: Final = 1024  # connections accepted while the engine stood still: as many as are served
MAX_HELD_PER_UID: Final = 512  # of them of one user that has sent data: half, for the other users
HELD_EVICTIONS: Final = 64  # connections evicted at a time: finding them looks at each that is held
MAX_OBSERVERS: Final = 16  # observers at a time: people who look, and what watches for them
MAX_OBSERVERS_PER_UID: Final = 8  # of one user: half, so that another one can always look
# An observer that has no place is rejected after this, so that a loop of requests costs little.
OBSERVER_REFUSAL: Final = 0.25  # seconds: less than OBSERVE_AGAIN
OBSERVER_DEADLINE: Final = 30.0  # seconds: an observer that reads nothing for so long is closed
MIN_STATUS_INTERVAL: Final = 0.1  # seconds between two documents, which all observers share
TOLD_PRODUCERS: Final = 1000  # producers in a status: the busiest; about 300 KiB
PACKET_STATUS: Final = 96 * KIB  # bytes of a status in one packet: less than a socket buffer holds
MAX_TAP_RATE: Final = 1000  # samples a second: more than a terminal shows, and little work
MAX_SAMPLE: Final = (
    64 * KIB
)  # bytes of a sample: a tap is to be looked at, not to be a second receiver
MAX_SAMPLES: Final = 64  # samples that wait for the observer's thread: 4 MiB at most
SAMPLES_PER_BATCH: Final = 8  # messages of a batch that are samples: the rest is skipped
STOP_ROUNDS: Final = 64  # rounds of accepting when stopping: newcomers cannot prolong it

# -- metrics --------------------------------------------------------------------------------

MAX_SCRAPES: Final = 64  # connections at a time: a few scrapers, and others that stay idle
MAX_SCRAPE_REQUEST: Final = 16 * KIB  # bytes of a request: its line and some headers
SCRAPE_DEADLINE: Final = 5.0  # seconds that a scrape may take, however it trickles

# -- logging --------------------------------------------------------------------------------

LOG_BUFFER: Final = 16 * MIB  # bytes not yet accepted: 50,000 records or so, in each process
LOG_TIMEOUT: Final = 1.0  # seconds that the end of a program may wait for its log
MAX_LOG_TEXT: Final = 1 * MIB  # characters of a text: a record fits a message in any case
MAX_LOG_REPR: Final = 10_000  # characters of a repr(): it is there to be recognised
MAX_LOG_DEPTH: Final = 8  # containers within each other: deeper ones are cycles
MAX_LOG_ITEMS: Final = 1000  # items of a record's extra, in all: copying them takes 1 ms
MAX_REPAIRED: Final = 1 * MIB  # bytes of a record whose halves of surrogate pairs are replaced
MAX_LOG_LEVEL: Final = 1000  # number of a level: the standard ones end at 50
MAX_LOGGERS: Final = 4096  # loggers created for received names, with their parents: never freed
MAX_LOGGER_NAME: Final = 255  # characters of a name that gets a logger: a module's path is shorter
MAX_LOGGER_PARTS: Final = 16  # parts of such a name: each gets a logger or placeholder of its own

# -- journal --------------------------------------------------------------------------------

GIB: Final = 1024 * MIB
JOURNAL_LIMIT: Final = 1 * GIB  # bytes: hours of events, on a disk that has other uses too
GROUP_SIZE: Final = 4 * MIB  # bytes written and synced at once: more costs no less a byte
GROUP_TIME: Final = 0.001  # seconds that a group may gather while nothing is being written
CURSOR_TIME: Final = 0.005  # seconds until a cursor that moved is written, without a group
FULL_DISK_PAUSE: Final = 0.1  # seconds before a full disk is tried again
READ_AHEAD: Final = 16 * MIB  # bytes kept in memory for a reader that follows closely
JOURNAL_PARTS: Final = 4  # a message is at most so small a part: a group of them has to fit
MIN_JOURNAL_LIMIT: Final = 2 * MIB  # bytes: some segments, each with a group of batches
SEGMENT_SIZE: Final = 64 * MIB  # bytes: read in a moment when a journal is opened
SEGMENT_PARTS: Final = 8  # a segment is at most so small a part: only whole ones are trimmed
MIN_SEGMENT: Final = 128 * KIB  # bytes, however little room there is: a group, and cursors
SEGMENT_RECORDS: Final = 50_000  # batches of a segment: to read them takes a fraction of a second
CURSOR_ROOM: Final = 64 * KIB  # bytes kept free in a segment, for cursors to move on a full disk

# -- sinks ----------------------------------------------------------------------------------

SINK_GROUP_SIZE: Final = 4 * MIB  # bytes that one commit of a sink stands for: as of a journal
SINK_GROUP_TIME: Final = 0.2  # seconds that what was written may wait for its commit
SINK_GROUP_IDLE: Final = 0.02  # seconds without a message until it is committed sooner
SINK_FILE_SIZE: Final = 128 * MIB  # bytes of messages in a columnar file: few files, read fast
SINK_FILE_TIME: Final = 60.0  # seconds that messages may wait for such a file to be whole
SINK_FILE_IDLE: Final = 10.0  # seconds without a message until it is whole sooner
SINK_ROWS_SIZE: Final = 16 * MIB  # bytes of messages that are written to it at a time, from memory
SINK_BACKOFF_FIRST: Final = 0.1  # seconds until a sink that failed is tried again
SINK_BACKOFF_MOST: Final = 15.0  # seconds: a sink that returns is found within some of them
SINK_REMINDER: Final = 60.0  # seconds until the same failure is told again
SINK_STUCK: Final = 10.0  # seconds that a call of a sink may take before that is told
SINK_STOP_TIMEOUT: Final = 5.0  # seconds that an end waits for sinks, as close() does
SINK_CLOSE_TIMEOUT: Final = 5.0  # seconds that a program has to end once its input has
SINK_KILL_TIMEOUT: Final = 1.0  # seconds from SIGTERM to SIGKILL: its input ended long before

# -- command line ---------------------------------------------------------------------------

SIGNAL_REPEAT: Final = 1.0  # seconds: the same signal again within it was sent by a wrapper

# -- producer -------------------------------------------------------------------------------

BUFFER: Final = 32 * MIB  # bytes not yet accepted: two of the largest messages
MESSAGE_COST: Final = 8  # bytes of buffer that a message takes beside its own
MIN_BATCHES: Final = 16  # a full buffer holds at least so many batches: drops stay fine-grained
LINGER: Final = 0.001  # seconds: how long a burst gathers before it is sent
SHORT_MESSAGE: Final = 4 * KIB  # bytes: its frame is made in one piece, if it leaves at once
TOKEN_INTERVAL: Final = 0.1  # of a linger: how long until a message may leave at once again
BURST_TOKENS: Final = 3  # messages that may leave at once in quick succession, before it is a burst
BACKOFF_FIRST: Final = 0.01  # seconds before the first reconnect
BACKOFF_MOST: Final = 1.0  # seconds: a receiver that returns is found within one
CLOSE_TIMEOUT: Final = 5.0  # seconds without progress before close() gives up
SEND_BUFFER: Final = 256 * KIB  # bytes that the kernel may hold for a connection, where it lets us
WAITING_WRITE: Final = 32 * KIB  # bytes: who sends less at a time is in no burst, and never waits
WRITE_TIMEOUT: Final = 2.0  # seconds without progress that a burst waits in a write for room
BURST_TIME: Final = 0.004  # seconds: then the background writes what a burst has left
SPOOL_SETTLE: Final = 1.0  # seconds until what was accepted is settled without another commit
MAX_SPOOLED: Final = 256 * MIB  # bytes: one message must fit the spool several times over
ACK_READ_BYTES: Final = 256 * KIB  # not accepted: above, who writes reads acknowledgements, too
ACK_READ_BATCHES: Final = 128  # batches not accepted: above too; a socket holds twice the news
LONGEST_WAIT: Final = 86_400.0  # seconds: the system counts a wait in 31 bits of milliseconds
ACK_READ_INTERVAL: Final = 1.0  # seconds that acknowledgements stay unread while nobody waits
WRITE_SIZE: Final = 1 * MIB  # bytes gathered for one system call
WRITE_BUFFERS: Final = 512  # buffers gathered for one system call: half of IOV_MAX
