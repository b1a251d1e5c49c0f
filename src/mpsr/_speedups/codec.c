/* Pack and split messages: the C twin of the hot functions.
 *
 * codec_py.py says what each function does; this file gives the same answer to every call,
 * errors and their words included. What is not exactly bytes is copied to bytes first, in the
 * order and with the errors of the Python twin. From then on no foreign code runs, so that the
 * interpreter lock makes every call whole, and nothing changes between a check and its use.
 *
 * Sizes are counted in 64 bits: sums of a few numbers below 2**33 cannot overflow there. Where
 * a size has fewer, this file does not build, and the Python twin serves.
 */

#include "speedups.h"

#include <stdbool.h>

#include "frame.h"

_Static_assert(sizeof(Py_ssize_t) == 8, "sizes are counted in 64 bits");

enum { LENGTH = sizeof(uint32_t) };  /* what stands before a message in the length framing */

#define MOST_IN_U32 0xFFFFFFFFLL
#define MAX_COST (MOST_IN_U32 - BATCH_HEAD - OFFSET)  /* so that what costs less fits a frame */

/* -- numbers ---------------------------------------------------------------------------- */

static inline uint32_t get_offset(const char *at)
{
    uint32_t offset;
    memcpy(&offset, at, sizeof offset);
    return LITTLE32(offset);
}

static inline void put_length(char *at, uint32_t length, bool little)
{
    length = little ? LITTLE32(length) : BIG32(length);
    memcpy(at, &length, sizeof length);
}

static inline uint32_t get_length(const char *at, bool little)
{
    uint32_t length;
    memcpy(&length, at, sizeof length);
    return little ? LITTLE32(length) : BIG32(length);
}

/* -- arguments -------------------------------------------------------------------------- */

static int fail(PyObject *exception, const char *text)
{
    PyErr_SetString(exception, text);
    return -1;
}

static int check_count(const char *name, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted) return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", name, wanted, given);
    return -1;
}

/* A number beyond 64 bits is as good as the largest or smallest within. */
static int to_int64(PyObject *object, int64_t *number)
{
    PyObject *integer = PyNumber_Index(object);
    if (integer == NULL) return -1;
    int overflow;
    *number = PyLong_AsLongLongAndOverflow(integer, &overflow);
    if (overflow) *number = overflow > 0 ? INT64_MAX : INT64_MIN;
    Py_DECREF(integer);
    return 0;
}

/* Convert what PyNumber_Index returned to the first of ``count`` sequence numbers. */
static int to_first_seq(PyObject *integer, Py_ssize_t count, uint64_t *first_seq)
{
    *first_seq = PyLong_AsUnsignedLongLong(integer);
    int failed = *first_seq == UINT64_MAX && PyErr_Occurred();
    if (!failed && *first_seq <= MAX_SEQ - (uint64_t)count) return 0;
    return fail(PyExc_ValueError, "the sequence numbers of a batch must fit in signed 64 bits");
}

static int check_start(int64_t start, Py_ssize_t count)
{
    if (0 <= start && start <= count) return 0;
    return fail(PyExc_ValueError, "the start lies outside the messages");
}

static int to_delimiter(PyObject *object, char *delimiter)
{
    if (!PyBytes_CheckExact(object) || PyBytes_GET_SIZE(object) != 1) {
        PyErr_Format(PyExc_ValueError, "a delimiter is one byte, not %R", object);
        return -1;
    }
    *delimiter = PyBytes_AS_STRING(object)[0];
    return 0;
}

/* -- buffers and messages --------------------------------------------------------------- */

/* Return a buffer as exact bytes: itself, or a copy. */
static PyObject *whole(PyObject *data)
{
    if (PyBytes_CheckExact(data)) return Py_NewRef(data);
    PyObject *view = PyMemoryView_FromObject(data);
    if (view == NULL) return NULL;
    PyObject *copy = PyBytes_FromObject(view);
    Py_DECREF(view);
    return copy;
}

/* The bytes of a buffer, kept until the span is released: those of bytes, or of a view of bytes,
 * are not copied. The span of a view holds the bytes and not the view: the garbage collector
 * releases the views in a cycle, although a span of one of them is still in use.
 */
static int hold(PyObject *data, Py_buffer *span)
{
    if (PyMemoryView_Check(data)) {
        Py_buffer view;
        if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) == 0) {
            PyObject *base = PyMemoryView_GET_BASE(data);
            int held = base != NULL && PyBytes_CheckExact(base)
                && PyBuffer_FillInfo(span, base, view.buf, view.len, 1, PyBUF_SIMPLE) == 0;
            PyBuffer_Release(&view);
            if (held) return 0;
        } else {
            PyErr_Clear();
        }
    }
    PyObject *copy = whole(data);
    if (copy == NULL) return -1;
    int failed = PyObject_GetBuffer(copy, span, PyBUF_SIMPLE);
    Py_DECREF(copy);
    return failed;
}

/* Where TypeError says that a message is not bytes-like, say what to do about it. */
static void advise(PyObject *message)
{
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) return;
    PyErr_Clear();
    PyObject *kind = PyObject_GetAttrString((PyObject *)Py_TYPE(message), "__name__");
    if (kind == NULL) return;
    PyErr_Format(PyExc_TypeError,
                 "a message is bytes-like, not %S: encode it, as text.encode() does, or give the "
                 "producer an encode= that returns bytes", kind);
    Py_DECREF(kind);
}

static PyObject *to_bytes(PyObject *Py_UNUSED(module), PyObject *message)
{
    PyObject *body = whole(message);
    if (body == NULL) advise(message);
    return body;
}

/* Messages, all of them exactly bytes. */
typedef struct {
    PyObject *owner;  /* a list or tuple; a reference of our own */
    PyObject **items;
    Py_ssize_t count;
} Bodies;

static int holds_only_bytes(PyObject *messages)
{
    if (!PyList_CheckExact(messages) && !PyTuple_CheckExact(messages)) return 0;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(messages);
    PyObject **items = PySequence_Fast_ITEMS(messages);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyBytes_CheckExact(items[i])) return 0;
    }
    return 1;
}

static PyObject *converted(PyObject *messages)
{
    PyObject *iterator = PyObject_GetIter(messages);
    if (iterator == NULL) return NULL;
    PyObject *bodies = PyList_New(0);
    PyObject *message;
    while (bodies != NULL && (message = PyIter_Next(iterator)) != NULL) {
        PyObject *body = to_bytes(NULL, message);
        if (body == NULL || PyList_Append(bodies, body) < 0) Py_CLEAR(bodies);
        Py_XDECREF(body);
        Py_DECREF(message);
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred()) Py_CLEAR(bodies);
    return bodies;
}

/* Hold the messages as bytes: their own list or tuple where that has nothing else in it. */
static int to_bodies(PyObject *messages, Bodies *bodies)
{
    PyObject *owner = holds_only_bytes(messages) ? Py_NewRef(messages) : converted(messages);
    if (owner == NULL) return -1;
    bodies->owner = owner;
    bodies->items = PySequence_Fast_ITEMS(owner);
    bodies->count = PySequence_Fast_GET_SIZE(owner);
    return 0;
}

static PyObject *longest(PyObject *Py_UNUSED(module), PyObject *messages)
{
    Bodies bodies;
    if (to_bodies(messages, &bodies) < 0) return NULL;
    Py_ssize_t most = 0;
    for (Py_ssize_t i = 0; i < bodies.count; i++) {
        most = Py_MAX(most, PyBytes_GET_SIZE(bodies.items[i]));
    }
    Py_DECREF(bodies.owner);
    return PyLong_FromSsize_t(most);
}

/* Return the bytes of all bodies, and ``extra`` for each; -1 if that is no size. */
static Py_ssize_t total_size(const Bodies *bodies, Py_ssize_t extra)
{
    Py_ssize_t total = 0;
    for (Py_ssize_t i = 0; i < bodies->count; i++) {
        Py_ssize_t size = PyBytes_GET_SIZE(bodies->items[i]) + extra;
        if (size > PY_SSIZE_T_MAX - total) return -1;
        total += size;
    }
    return total;
}

/* Return new bytes with room for all bodies, and ``extra`` for each. */
static PyObject *room_for(const Bodies *bodies, Py_ssize_t extra)
{
    Py_ssize_t size = total_size(bodies, extra);
    return size < 0 ? PyErr_NoMemory() : PyBytes_FromStringAndSize(NULL, size);
}

static inline char *put_body(char *at, PyObject *body)
{
    Py_ssize_t size = PyBytes_GET_SIZE(body);
    memcpy(at, PyBytes_AS_STRING(body), size);
    return at + size;
}

/* Put a message into a new list. */
static inline int put_message(PyObject *list, Py_ssize_t index, const char *data, Py_ssize_t size)
{
    PyObject *message = PyBytes_FromStringAndSize(data, size);
    if (message == NULL) return -1;
    PyList_SET_ITEM(list, index, message);
    return 0;
}

/* -- native ----------------------------------------------------------------------------- */

static PyObject *pack_frame(const Bodies *bodies, uint64_t first_seq)
{
    Py_ssize_t size = total_size(bodies, OFFSET);
    if (size < 0 || size > MAX_COST) {
        PyErr_SetString(PyExc_ValueError, "a batch must be shorter than 4 GiB");
        return NULL;
    }
    Py_ssize_t length = BATCH_HEAD + OFFSET + size;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, FRAME_HEADER + length);
    if (frame == NULL) return NULL;
    char *offset = put_head(PyBytes_AS_STRING(frame), length, first_seq, bodies->count);
    char *begin = offset + OFFSET * (bodies->count + 1);
    char *body = begin;
    for (Py_ssize_t i = 0; i < bodies->count; i++) {
        body = put_body(body, bodies->items[i]);
        put_offset(offset += OFFSET, (uint32_t)(body - begin));
    }
    return frame;
}

static PyObject *pack_bodies(const Bodies *bodies, PyObject *integer)
{
    uint64_t first_seq;
    if (bodies->count == 0) {
        PyErr_SetString(PyExc_ValueError, "a batch holds at least one message");
        return NULL;
    }
    if (to_first_seq(integer, bodies->count, &first_seq) < 0) return NULL;
    return pack_frame(bodies, first_seq);
}

static PyObject *pack_batch(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (check_count("pack_batch", nargs, 2) < 0) return NULL;
    PyObject *integer = PyNumber_Index(args[1]);
    if (integer == NULL) return NULL;
    Bodies bodies;
    PyObject *frame = NULL;
    if (to_bodies(args[0], &bodies) == 0) {
        frame = pack_bodies(&bodies, integer);
        Py_DECREF(bodies.owner);
    }
    Py_DECREF(integer);
    return frame;
}

/* The payload of a BATCH frame. */
typedef struct {
    uint64_t first_seq;
    Py_ssize_t count;
    Py_ssize_t nbytes;
    const char *offsets;
    const char *bodies;
} Batch;

static int offsets_are_good(const Batch *batch)
{
    const char *offset = batch->offsets;
    unsigned int bad = get_offset(offset) != 0;
    for (Py_ssize_t i = 0; i < batch->count; i++, offset += OFFSET) {
        bad |= get_offset(offset) > get_offset(offset + OFFSET);
    }
    return !bad && get_offset(offset) == batch->nbytes;
}

/* Read the beginning of a payload of that length; return what is wrong with it, or NULL. */
static const char *read_batch(Batch *batch, const char *data, Py_ssize_t size, Py_ssize_t length)
{
    if (size < BATCH_HEAD) return "the batch is shorter than its head";
    BatchHead head;
    memcpy(&head, data, sizeof head);
    batch->first_seq = LITTLE64(head.first_seq);
    batch->count = LITTLE32(head.count);
    if (head.zero != 0) return "the batch's reserved field is not zero";
    if (batch->count == 0) return "the batch is empty";
    if (batch->first_seq > MAX_SEQ - (uint64_t)batch->count) {
        return "the batch's sequence numbers do not fit in signed 64 bits";
    }
    Py_ssize_t before = BATCH_HEAD + OFFSET * (batch->count + 1);
    batch->nbytes = length - before;
    if (batch->nbytes < 0 || size < before) return "the batch is shorter than its offsets";
    batch->offsets = data + BATCH_HEAD;
    batch->bodies = data + before;
    if (!offsets_are_good(batch)) return "the batch's offsets do not run from 0 to its end";
    return NULL;
}

static int check_batch(Batch *batch, const Py_buffer *span)
{
    const char *fault = read_batch(batch, span->buf, span->len, span->len);
    return fault == NULL ? 0 : fail(PyExc_ValueError, fault);
}

static PyObject *scan_batch(PyObject *Py_UNUSED(module), PyObject *payload)
{
    Py_buffer span;
    if (hold(payload, &span) < 0) return NULL;
    Batch batch;
    int failed = check_batch(&batch, &span);
    PyBuffer_Release(&span);
    if (failed) return NULL;
    return Py_BuildValue("Knn", (unsigned long long)batch.first_seq, batch.count, batch.nbytes);
}

enum {
    SHARED_PART = 8,      /* a payload shares the data's memory, if it is no smaller a part of it */
    LEAST_SHARED = 1024,  /* and no shorter than this */
};

/* Read a whole BATCH frame that begins with message ``first_seq``; return the length of its
 * payload, or -1 where there is none.
 */
static Py_ssize_t read_frame(Batch *batch, const char *data, Py_ssize_t size, uint64_t first_seq,
                             int64_t limit)
{
    FrameHeader header;
    if (size <= FRAME_HEADER) return -1;
    memcpy(&header, data, sizeof header);
    Py_ssize_t length = LITTLE32(header.length);
    if (header.type != BATCH || header.flags != 0 || header.zero != 0) return -1;
    if (length > limit || length > size - FRAME_HEADER) return -1;
    if (read_batch(batch, data + FRAME_HEADER, length, length) != NULL) return -1;
    return batch->first_seq == first_seq ? length : -1;
}

/* Return a part of bytes: as a view, unless it is short or a small part. */
static PyObject *part_of(PyObject *data, Py_ssize_t begin, Py_ssize_t length)
{
    if (length < LEAST_SHARED || length * SHARED_PART < PyBytes_GET_SIZE(data)) {
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + begin, length);
    }
    PyObject *view = PyMemoryView_FromObject(data);
    if (view == NULL) return NULL;
    PyObject *part = PySequence_GetSlice(view, begin, begin + length);
    Py_DECREF(view);
    return part;
}

/* Append what was found to a list. */
static int append_found(PyObject *found, const Batch *batch, PyObject *payload)
{
    if (payload == NULL) return -1;
    PyObject *item = Py_BuildValue("KnnN", (unsigned long long)batch->first_seq, batch->count,
                                   batch->nbytes, payload);
    if (item == NULL) return -1;
    int failed = PyList_Append(found, item);
    Py_DECREF(item);
    return failed;
}

static PyObject *find_batches(PyObject *data, uint64_t first_seq, int64_t limit)
{
    PyObject *found = PyList_New(0);
    if (found == NULL) return NULL;
    Py_ssize_t end = 0;
    for (;;) {
        Batch batch;
        Py_ssize_t length = read_frame(&batch, PyBytes_AS_STRING(data) + end,
                                       PyBytes_GET_SIZE(data) - end, first_seq, limit);
        if (length < 0) return Py_BuildValue("nN", end, found);
        if (append_found(found, &batch, part_of(data, end + FRAME_HEADER, length)) < 0) {
            Py_DECREF(found);
            return NULL;
        }
        first_seq += (uint64_t)batch.count;
        end += FRAME_HEADER + length;
    }
}

static PyObject *scan_batches(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int64_t limit;
    if (check_count("scan_batches", nargs, 3) < 0) return NULL;
    PyObject *integer = PyNumber_Index(args[1]);
    if (integer == NULL) return NULL;
    uint64_t first_seq = PyLong_AsUnsignedLongLong(integer);
    Py_DECREF(integer);
    int none = first_seq == UINT64_MAX && PyErr_Occurred();  /* no message has such a number */
    if (none) PyErr_Clear();
    if (to_int64(args[2], &limit) < 0) return NULL;
    PyObject *data = whole(args[0]);
    if (data == NULL) return NULL;
    PyObject *answer = find_batches(data, first_seq, none ? -1 : limit);
    Py_DECREF(data);
    return answer;
}

static inline Py_ssize_t offset_of(const Batch *batch, Py_ssize_t index)
{
    return get_offset(batch->offsets + OFFSET * index);
}

static PyObject *sizes_of(const Batch *batch)
{
    PyObject *sizes = PyList_New(batch->count);
    if (sizes == NULL) return NULL;
    for (Py_ssize_t i = 0; i < batch->count; i++) {
        PyObject *size = PyLong_FromSsize_t(offset_of(batch, i + 1) - offset_of(batch, i));
        if (size == NULL) {
            Py_DECREF(sizes);
            return NULL;
        }
        PyList_SET_ITEM(sizes, i, size);
    }
    return sizes;
}

static PyObject *scan_head(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int64_t length;
    if (check_count("scan_head", nargs, 2) < 0 || to_int64(args[1], &length) < 0) return NULL;
    Py_buffer span;
    if (hold(args[0], &span) < 0) return NULL;
    Batch batch;
    PyObject *sizes = NULL;
    const char *fault = read_batch(&batch, span.buf, span.len, Py_MAX(length, 0));
    if (fault != NULL) {
        PyErr_SetString(PyExc_ValueError, fault);
    } else {
        sizes = sizes_of(&batch);
    }
    PyBuffer_Release(&span);
    if (sizes == NULL) return NULL;
    return Py_BuildValue("KN", (unsigned long long)batch.first_seq, sizes);
}

static PyObject *messages_of(const Batch *batch, Py_ssize_t start)
{
    PyObject *messages = PyList_New(batch->count - start);
    if (messages == NULL) return NULL;
    Py_ssize_t begin = offset_of(batch, start);
    for (Py_ssize_t i = start; i < batch->count; i++) {
        Py_ssize_t end = offset_of(batch, i + 1);
        if (put_message(messages, i - start, batch->bodies + begin, end - begin) < 0) {
            Py_DECREF(messages);
            return NULL;
        }
        begin = end;
    }
    return messages;
}

static PyObject *split_batch(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int64_t start;
    if (check_count("split_batch", nargs, 2) < 0 || to_int64(args[1], &start) < 0) return NULL;
    Py_buffer span;
    if (hold(args[0], &span) < 0) return NULL;
    Batch batch;
    PyObject *messages = NULL;
    if (check_batch(&batch, &span) == 0 && check_start(start, batch.count) == 0) {
        messages = messages_of(&batch, start);
    }
    PyBuffer_Release(&span);
    return messages;
}

/* -- iter_batch ------------------------------------------------------------------------- */

/* Makes the messages of a batch one by one, so that each is still in the cache when it is used. */
typedef struct {
    PyObject_HEAD
    Py_buffer span;
    Batch batch;
    Py_ssize_t index;
    Py_ssize_t begin;
    PyObject *recent[2];  /* the last two messages, or NULL */
} BatchIterator;

static PyObject *iterator_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    int64_t start;
    if (keywords != NULL && PyDict_GET_SIZE(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "iter_batch() takes no keyword arguments");
        return NULL;
    }
    if (check_count("iter_batch", PyTuple_GET_SIZE(args), 2) < 0) return NULL;
    if (to_int64(PyTuple_GET_ITEM(args, 1), &start) < 0) return NULL;
    BatchIterator *self = (BatchIterator *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    if (hold(PyTuple_GET_ITEM(args, 0), &self->span) < 0) {
        self->span.obj = NULL;
        Py_DECREF(self);
        return NULL;
    }
    if (check_batch(&self->batch, &self->span) < 0 || check_start(start, self->batch.count) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->index = start;
    self->begin = offset_of(&self->batch, start);
    return (PyObject *)self;
}

static void forget_hash(PyObject *bytes)
{
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#endif
    ((PyBytesObject *)bytes)->ob_shash = -1;
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
}

/* Return a message that its user has done with, to be made another of the same size: who loops
 * over messages holds the last one while he asks for the next. NULL if there is none.
 */
static PyObject *reusable(BatchIterator *self, Py_ssize_t size)
{
    PyObject *message = self->recent[self->index % 2];
    if (message == NULL || Py_REFCNT(message) != 1 || PyBytes_GET_SIZE(message) != size) return NULL;
    self->recent[self->index % 2] = NULL;
    forget_hash(message);
    return message;
}

static PyObject *iterator_next(PyObject *op)
{
    BatchIterator *self = (BatchIterator *)op;
    if (self->index >= self->batch.count) return NULL;
    Py_ssize_t end = offset_of(&self->batch, self->index + 1);
    Py_ssize_t size = end - self->begin;
    PyObject *message = reusable(self, size);
    if (message == NULL) message = PyBytes_FromStringAndSize(NULL, size);
    if (message == NULL) return NULL;
    memcpy(PyBytes_AS_STRING(message), self->batch.bodies + self->begin, size);
    Py_XSETREF(self->recent[self->index % 2], size > 1 ? Py_NewRef(message) : NULL);
    self->begin = end;
    self->index++;
    return message;
}

static PyObject *iterator_length_hint(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BatchIterator *self = (BatchIterator *)op;
    return PyLong_FromSsize_t(self->batch.count - self->index);
}

static int iterator_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((BatchIterator *)self)->span.obj);
    return 0;
}

static void iterator_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    BatchIterator *messages = (BatchIterator *)self;
    PyBuffer_Release(&messages->span);
    for (int i = 0; i < 2; i++) Py_XDECREF(messages->recent[i]);
    type->tp_free(self);
    Py_DECREF(type);
}

/* -- Packer ----------------------------------------------------------------------------- */

enum {
    FIRST_ENDS = 64,      /* messages for which there is room at first */
    FIRST_PIECE = 512,    /* bytes of the first piece of a batch */
    PIECE = 64 * 1024,    /* bytes of the largest */
    SHARED = 8 * 1024,    /* bytes: a message so long is not copied, but held */
};

/* The bodies are gathered in pieces, each twice as large as the one before, so that nothing is
 * copied twice and little memory is touched for little. A long message is a piece by itself.
 */
typedef struct {
    PyObject_HEAD
    Py_ssize_t max_message;
    Py_ssize_t shared;  /* SHARED; of what gcc knows to be short it makes slow copies (rep movs) */
    Py_ssize_t limit;   /* of the cost; negative while closed */
    Py_ssize_t count;
    Py_ssize_t nbytes;
    PyObject *pieces;   /* a list of those that are complete */
    PyObject *piece;    /* bytes that nobody else has; NULL where none has begun */
    Py_ssize_t used;    /* of the piece */
    Py_ssize_t size;    /* of the piece; 0 where there is none */
    Py_ssize_t next;    /* the size of the next piece */
    uint32_t *ends;     /* where each message ends in the bodies */
    Py_ssize_t ends_size;
    PyObject *taken;    /* what the last take() gave, behind its first_seq; NULL before it */
} Packer;

static inline Py_ssize_t cost_of(const Packer *self)
{
    return self->nbytes + MESSAGE_COST * self->count;
}

static int grow_ends(Packer *self)
{
    Py_ssize_t size = Py_MAX(FIRST_ENDS, 2 * self->ends_size);
    uint32_t *ends = PyMem_Realloc(self->ends, size * sizeof *ends);
    if (ends == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->ends = ends;
    self->ends_size = size;
    return 0;
}

/* Complete the piece that has begun. What it does not use stays its own: at most about as much
 * again as the batch has.
 */
static int end_piece(Packer *self)
{
    if (self->piece == NULL) return 0;
    if (PyList_Append(self->pieces, self->piece) < 0) return -1;
    Py_SET_SIZE(self->piece, self->used);
    PyBytes_AS_STRING(self->piece)[self->used] = '\0';
    Py_CLEAR(self->piece);
    self->used = self->size = 0;
    return 0;
}

static int begin_piece(Packer *self, Py_ssize_t least)
{
    if (end_piece(self) < 0) return -1;
    Py_ssize_t size = Py_MAX(self->next, least);
    PyObject *piece = PyBytes_FromStringAndSize(NULL, size);
    if (piece == NULL) return -1;
    self->piece = piece;
    self->size = size;
    self->next = Py_MIN(2 * size, PIECE);
    return 0;
}

/* Tell whether a message is to be taken: 1, or 0, or -1 with an exception. */
static inline int admit(Packer *self, Py_ssize_t size)
{
    if (size > self->max_message) return 0;
    if (cost_of(self) + size + MESSAGE_COST > self->limit) return 0;
    return self->count == self->ends_size && grow_ends(self) < 0 ? -1 : 1;
}

static inline void commit(Packer *self, Py_ssize_t size)
{
    self->nbytes += size;
    self->ends[self->count++] = (uint32_t)self->nbytes;
}

/* Take a long message as it is. */
static int append_shared(Packer *self, PyObject *body)
{
    int taken = admit(self, PyBytes_GET_SIZE(body));
    if (taken <= 0) return taken;
    if (end_piece(self) < 0 || PyList_Append(self->pieces, body) < 0) return -1;
    commit(self, PyBytes_GET_SIZE(body));
    return 1;
}

/* Take what is exactly bytes: 1 if it was, 0 if it is too large or does not fit, -1 with an
 * exception.
 */
static inline int append_bytes(Packer *self, PyObject *body)
{
    Py_ssize_t size = PyBytes_GET_SIZE(body);
    if (size >= self->shared) return append_shared(self, body);
    int taken = admit(self, size);
    if (taken <= 0) return taken;
    if (size > self->size - self->used && begin_piece(self, size) < 0) return -1;
    if (size > 0) memcpy(PyBytes_AS_STRING(self->piece) + self->used, PyBytes_AS_STRING(body), size);
    self->used += size;
    commit(self, size);
    return 1;
}

static inline int append(Packer *self, PyObject *message)
{
    if (PyBytes_CheckExact(message)) return append_bytes(self, message);
    PyObject *body = to_bytes(NULL, message);
    if (body == NULL) return -1;
    int taken = append_bytes(self, body);
    Py_DECREF(body);
    return taken;
}

static PyObject *packer_append(PyObject *self, PyObject *message)
{
    int taken = append((Packer *)self, message);
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

/* Append from ``start`` on; return where it stopped, -1 if the start-th raised. */
static Py_ssize_t append_from(Packer *self, PyObject *messages, Py_ssize_t start)
{
    Py_ssize_t index = start;
    /* A foreign buffer may change the list when it is asked for its bytes. */
    while (index < PySequence_Fast_GET_SIZE(messages)) {
        PyObject *message = Py_NewRef(PySequence_Fast_GET_ITEM(messages, index));
        int taken = append(self, message);
        Py_DECREF(message);
        if (taken < 0) {
            if (index == start || !PyErr_ExceptionMatches(PyExc_Exception)) return -1;
            PyErr_Clear();
        }
        if (taken <= 0) break;
        index++;
    }
    return index;
}

static PyObject *packer_extend(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t start;
    if (check_count("extend", nargs, 2) < 0 || to_int64(args[1], &start) < 0) return NULL;
    int fast = PyList_CheckExact(args[0]) || PyTuple_CheckExact(args[0]);
    PyObject *messages = fast ? Py_NewRef(args[0]) : PySequence_List(args[0]);
    if (messages == NULL) return NULL;
    Py_ssize_t index = -1;
    if (check_start(start, PySequence_Fast_GET_SIZE(messages)) == 0) {
        index = append_from((Packer *)self, messages, start);
    }
    Py_DECREF(messages);
    return index < 0 ? NULL : PyLong_FromSsize_t(index);
}

/* Tell whether all of the messages are bytes and fit, one by one and together. */
static int fits(const Packer *self, PyObject *const *items, Py_ssize_t count)
{
    Py_ssize_t cost = cost_of(self);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyBytes_CheckExact(items[i])) return 0;
        Py_ssize_t size = PyBytes_GET_SIZE(items[i]);
        cost += size + MESSAGE_COST;
        if (size > self->max_message || cost > self->limit) return 0;
    }
    return 1;
}

static PyObject *packer_try_extend(PyObject *op, PyObject *messages)
{
    Packer *self = (Packer *)op;
    Py_ssize_t index = 0;
    if (PyList_CheckExact(messages) || PyTuple_CheckExact(messages)) {
        Py_ssize_t count = PySequence_Fast_GET_SIZE(messages);
        PyObject **items = PySequence_Fast_ITEMS(messages);
        if (fits(self, items, count)) {
            while (index < count && append_bytes(self, items[index]) > 0) index++;
            if (index < count && index > 0) PyErr_Clear();  /* no memory: it comes up again */
        }
    }
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(index);
}

static PyObject *packer_open(PyObject *self, PyObject *limit)
{
    int64_t number;
    if (to_int64(limit, &number) < 0) return NULL;
    ((Packer *)self)->limit = Py_MIN(number, MAX_COST);
    Py_RETURN_NONE;
}

static PyObject *packer_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ((Packer *)self)->limit = -1;
    Py_RETURN_NONE;
}

static PyObject *head_of(const Packer *self, uint64_t first_seq)
{
    if (self->count == 0) return PyBytes_FromStringAndSize(NULL, 0);
    Py_ssize_t offsets = OFFSET * (self->count + 1);
    PyObject *head = PyBytes_FromStringAndSize(NULL, FRAME_HEADER + BATCH_HEAD + offsets);
    if (head == NULL) return NULL;
    Py_ssize_t length = BATCH_HEAD + offsets + self->nbytes;
    char *offset = put_head(PyBytes_AS_STRING(head), length, first_seq, self->count);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        put_offset(offset += OFFSET, self->ends[i]);
    }
    return head;
}

/* Close the packer and hand out what it holds: first sequence number, count, head, pieces. */
static int hand_out(Packer *self, uint64_t first_seq, PyObject *taken, PyObject *fresh)
{
    if (first_seq > MAX_SEQ - (uint64_t)self->count) {
        return fail(PyExc_ValueError, "the sequence numbers of a batch must fit in signed 64 bits");
    }
    PyTuple_SET_ITEM(taken, 0, PyLong_FromUnsignedLongLong(first_seq));
    PyTuple_SET_ITEM(taken, 1, PyLong_FromSsize_t(self->count));
    PyTuple_SET_ITEM(taken, 2, head_of(self, first_seq));
    for (int i = 0; i < 3; i++) {
        if (PyTuple_GET_ITEM(taken, i) == NULL) return -1;
    }
    if (end_piece(self) < 0) return -1;
    PyTuple_SET_ITEM(taken, 3, self->pieces);
    self->pieces = Py_NewRef(fresh);
    self->count = self->nbytes = 0;
    self->next = FIRST_PIECE;
    self->limit = -1;
    return 0;
}

/* Take, and remember it: an exception may break in before the caller has what was taken. */
static PyObject *take(Packer *self, uint64_t first_seq)
{
    /* To make these may let foreign code run, so they come first. */
    PyObject *fresh = PyList_New(0);
    PyObject *taken = PyTuple_New(4);
    PyObject *answer = PyTuple_New(3);
    int failed = fresh == NULL || taken == NULL || answer == NULL;
    if (failed || hand_out(self, first_seq, taken, fresh) < 0) {
        Py_CLEAR(answer);
        Py_XDECREF(taken);
    } else {
        for (int i = 0; i < 3; i++) {
            PyTuple_SET_ITEM(answer, i, Py_NewRef(PyTuple_GET_ITEM(taken, i + 1)));
        }
        Py_XSETREF(self->taken, taken);
    }
    Py_XDECREF(fresh);
    return answer;
}

static PyObject *packer_take(PyObject *op, PyObject *number)
{
    Packer *self = (Packer *)op;
    PyObject *integer = PyNumber_Index(number);
    if (integer == NULL) return NULL;
    uint64_t first_seq;
    int failed = to_first_seq(integer, self->count, &first_seq);
    Py_DECREF(integer);
    return failed ? NULL : take(self, first_seq);
}

static PyObject *packer_taken(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *taken = ((Packer *)op)->taken;
    if (taken != NULL) return Py_NewRef(taken);
    return Py_BuildValue("nny#[]", (Py_ssize_t)0, (Py_ssize_t)0, "", (Py_ssize_t)0);
}

static Py_ssize_t packer_length(PyObject *self)
{
    return ((Packer *)self)->count;
}

static PyObject *packer_cost(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(cost_of((Packer *)self));
}

static PyObject *packer_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    int64_t max_message;
    if (keywords != NULL && PyDict_GET_SIZE(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Packer() takes no keyword arguments");
        return NULL;
    }
    if (check_count("Packer", PyTuple_GET_SIZE(args), 1) < 0) return NULL;
    if (to_int64(PyTuple_GET_ITEM(args, 0), &max_message) < 0) return NULL;
    PyObject *pieces = PyList_New(0);
    if (pieces == NULL) return NULL;
    Packer *self = (Packer *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(pieces);
        return NULL;
    }
    self->max_message = Py_MIN(max_message, MAX_COST);
    self->shared = SHARED;
    self->limit = -1;
    self->next = FIRST_PIECE;
    self->pieces = pieces;
    return (PyObject *)self;
}

static int traverse_type(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void packer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Packer *packer = (Packer *)self;
    Py_XDECREF(packer->pieces);
    Py_XDECREF(packer->piece);
    Py_XDECREF(packer->taken);
    PyMem_Free(packer->ends);
    type->tp_free(self);
    Py_DECREF(type);
}

/* -- Assembly --------------------------------------------------------------------------- */

enum {
    FIRST_ROOM = 16 * 1024,   /* bytes set aside when nothing has come */
    SURE_ROOM = 128 * 1024,   /* once so much has come, room is made for more */
    AHEAD = 1024 * 1024,      /* bytes of room beyond the message that has begun */
    MOST_ROOMS = 64,          /* fewer than one read may fill */
};

/* Bodies whose sizes are known. Those before ``begun`` have their memory, but for the current
 * one, which may have less than all of it.
 */
typedef struct {
    PyObject_HEAD
    PyObject **bodies;    /* bytes that nobody else has; NULL for those that have not begun */
    Py_ssize_t *sizes;
    Py_ssize_t count;
    Py_ssize_t begun;
    Py_ssize_t current;   /* the first that is not whole */
    Py_ssize_t used;      /* what has come of it */
    Py_ssize_t room;      /* what it has memory for */
    Py_ssize_t filled;    /* what has come of all */
    Py_ssize_t total;
    Py_ssize_t exports;
    Py_ssize_t offered;   /* the body whose room is asked for */
    int trusted;
} Assembly;

/* Give bytes more room, and keep what is used. _PyBytes_Resize would lose it if it failed. */
static int enlarge(PyObject **bytes, Py_ssize_t used, Py_ssize_t size)
{
    PyObject *larger = PyBytes_FromStringAndSize(NULL, size);
    if (larger == NULL) return -1;
    if (used > 0) memcpy(PyBytes_AS_STRING(larger), PyBytes_AS_STRING(*bytes), used);
    Py_XSETREF(*bytes, larger);
    return 0;
}

static int grow_current(Assembly *self, Py_ssize_t size)
{
    if (enlarge(&self->bodies[self->current], self->used, size) < 0) return -1;
    self->room = size;
    self->begun = Py_MAX(self->begun, self->current + 1);
    return 0;
}

/* Begin the bodies that come next, as far as a read may reach. */
static int begin_ahead(Assembly *self)
{
    Py_ssize_t ahead = 0;
    for (Py_ssize_t i = self->current + 1; i < self->begun; i++) ahead += self->sizes[i];
    for (; self->begun < self->count; self->begun++) {
        ahead += self->sizes[self->begun];
        if (ahead > AHEAD || self->begun - self->current >= MOST_ROOMS) break;
        if (enlarge(&self->bodies[self->begun], 0, self->sizes[self->begun]) < 0) return -1;
    }
    return 0;
}

/* Make room for one byte more at least. Room that is never written costs no memory. */
static int make_room(Assembly *self)
{
    if (self->current == self->count) return 0;
    Py_ssize_t size = self->sizes[self->current];
    int sure = self->trusted || self->filled >= SURE_ROOM;
    if (self->used == self->room && self->room < size) {
        Py_ssize_t more = Py_MAX(FIRST_ROOM, 2 * self->used);
        if (grow_current(self, sure ? size : Py_MIN(more, size)) < 0) return -1;
    }
    return sure && self->room == size ? begin_ahead(self) : 0;
}

/* Go on behind what is whole. */
static int pass_whole(Assembly *self)
{
    while (self->current < self->count && self->used == self->sizes[self->current]) {
        if (self->current == self->begun && grow_current(self, 0) < 0) return -1;
        self->current++;
        self->used = 0;
        self->room = self->current < self->begun ? self->sizes[self->current] : 0;
    }
    return 0;
}

/* Record that bytes were put into the rooms. */
static int fill(Assembly *self, Py_ssize_t size)
{
    self->filled += size;
    for (;;) {
        Py_ssize_t part = Py_MIN(size, self->room - self->used);
        self->used += part;
        size -= part;
        if (pass_whole(self) < 0) return -1;
        if (size == 0) return 0;
    }
}

static Py_ssize_t room_of(const Assembly *self, Py_ssize_t index, char **at)
{
    Py_ssize_t used = index == self->current ? self->used : 0;
    Py_ssize_t room = index == self->current ? self->room : self->sizes[index];
    *at = PyBytes_AS_STRING(self->bodies[index]) + used;
    return room - used;
}

static int assembly_get_buffer(PyObject *op, Py_buffer *view, int flags)
{
    Assembly *self = (Assembly *)op;
    char *at = "";
    Py_ssize_t size = self->offered < self->begun ? room_of(self, self->offered, &at) : 0;
    if (PyBuffer_FillInfo(view, op, at, size, 0, flags) < 0) return -1;
    self->exports++;
    return 0;
}

static void assembly_release_buffer(PyObject *op, Py_buffer *Py_UNUSED(view))
{
    ((Assembly *)op)->exports--;
}

static PyObject *offer_rooms(Assembly *self)
{
    PyObject *rooms = PyList_New(0);
    Py_ssize_t whole = self->current < self->count && self->room == self->sizes[self->current];
    Py_ssize_t end = whole ? self->begun : Py_MIN(self->begun, self->current + 1);
    for (self->offered = self->current; rooms != NULL && self->offered < end; self->offered++) {
        if (self->sizes[self->offered] == 0) continue;
        PyObject *room = PyMemoryView_FromObject((PyObject *)self);
        if (room == NULL || PyList_Append(rooms, room) < 0) Py_CLEAR(rooms);
        Py_XDECREF(room);
    }
    self->offered = self->count;
    return rooms;
}

static PyObject *assembly_rooms(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Assembly *self = (Assembly *)op;
    if (self->exports > 0) {
        PyErr_SetString(PyExc_BufferError, "release the rooms before asking for more");
        return NULL;
    }
    return make_room(self) < 0 ? NULL : offer_rooms(self);
}

/* Return the room there is, in all that have begun. */
static Py_ssize_t whole_room(const Assembly *self)
{
    if (self->current == self->count) return 0;
    Py_ssize_t room = self->room - self->used;
    if (self->room < self->sizes[self->current]) return room;
    for (Py_ssize_t i = self->current + 1; i < self->begun; i++) room += self->sizes[i];
    return room;
}

static PyObject *assembly_advance(PyObject *op, PyObject *number)
{
    Assembly *self = (Assembly *)op;
    int64_t size;
    if (to_int64(number, &size) < 0) return NULL;
    if (size < 0 || size > whole_room(self)) {
        PyErr_SetString(PyExc_ValueError, "there is no room for so many bytes");
        return NULL;
    }
    if (fill(self, size) < 0) return NULL;
    Py_RETURN_NONE;
}

static int extend(Assembly *self, const Py_buffer *piece)
{
    if (piece->len > self->total - self->filled) {
        return fail(PyExc_ValueError, "there is no room for so many bytes");
    }
    if (self->exports > 0) {
        return fail(PyExc_BufferError, "release the rooms before giving more");
    }
    const char *from = piece->buf;
    for (Py_ssize_t left = piece->len; left > 0;) {
        if (make_room(self) < 0) return -1;
        char *at;
        Py_ssize_t size = Py_MIN(left, room_of(self, self->current, &at));
        memcpy(at, from, size);
        if (fill(self, size) < 0) return -1;
        from += size;
        left -= size;
    }
    return 0;
}

static PyObject *assembly_extend(PyObject *self, PyObject *piece)
{
    Py_buffer view;
    if (hold(piece, &view) < 0) return NULL;
    int failed = extend((Assembly *)self, &view);
    PyBuffer_Release(&view);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

static PyObject *assembly_take(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Assembly *self = (Assembly *)op;
    PyObject *bodies = PyList_New(self->count);
    if (bodies == NULL) return NULL;
    if (self->filled < self->total || self->exports > 0 || self->count != PyList_GET_SIZE(bodies)) {
        Py_DECREF(bodies);
        PyErr_SetString(PyExc_ValueError, "something is missing, or the rooms are not released");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        PyList_SET_ITEM(bodies, i, self->bodies[i]);
        self->bodies[i] = NULL;
    }
    self->count = self->begun = self->current = self->filled = self->total = 0;
    self->used = self->room = 0;
    return bodies;
}

static PyObject *assembly_filled(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(((Assembly *)self)->filled);
}

static PyObject *assembly_missing(PyObject *op, void *Py_UNUSED(closure))
{
    Assembly *self = (Assembly *)op;
    return PyLong_FromSsize_t(self->total - self->filled);
}

/* Read the sizes; their sum has to fit in 32 bits. */
static int set_sizes(Assembly *self, PyObject *sizes)
{
    Py_ssize_t count = PyList_GET_SIZE(sizes);
    self->sizes = PyMem_Calloc(count, sizeof *self->sizes);
    self->bodies = PyMem_Calloc(count, sizeof *self->bodies);
    if (self->sizes == NULL || self->bodies == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->count = self->offered = count;
    for (Py_ssize_t i = 0; i < count; i++) {
        int64_t size;
        if (to_int64(PyList_GET_ITEM(sizes, i), &size) < 0) return -1;
        if (size < 0 || size > MOST_IN_U32 - self->total) {
            return fail(PyExc_ValueError, "the sizes must fit in 32 bits, all together");
        }
        self->sizes[i] = size;
        self->total += size;
    }
    return pass_whole(self);
}

static PyObject *assembly_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    if (keywords != NULL && PyDict_GET_SIZE(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Assembly() takes no keyword arguments");
        return NULL;
    }
    if (check_count("Assembly", PyTuple_GET_SIZE(args), 2) < 0) return NULL;
    int trusted = PyObject_IsTrue(PyTuple_GET_ITEM(args, 1));
    if (trusted < 0) return NULL;
    PyObject *sizes = PySequence_List(PyTuple_GET_ITEM(args, 0));
    if (sizes == NULL) return NULL;
    Assembly *self = (Assembly *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->trusted = trusted;
        if (set_sizes(self, sizes) < 0) Py_CLEAR(self);
    }
    Py_DECREF(sizes);
    return (PyObject *)self;
}

static void assembly_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Assembly *assembly = (Assembly *)self;
    for (Py_ssize_t i = 0; i < assembly->count; i++) Py_XDECREF(assembly->bodies[i]);
    PyMem_Free(assembly->bodies);
    PyMem_Free(assembly->sizes);
    type->tp_free(self);
    Py_DECREF(type);
}

/* -- lines and null --------------------------------------------------------------------- */

/* Refuse a message that would not come back as it was. */
static int check_bodies(const Bodies *bodies, PyObject *delimiter)
{
    char mark = PyBytes_AS_STRING(delimiter)[0];
    for (Py_ssize_t i = 0; i < bodies->count; i++) {
        const char *body = PyBytes_AS_STRING(bodies->items[i]);
        Py_ssize_t size = PyBytes_GET_SIZE(bodies->items[i]);
        if (memchr(body, mark, size) != NULL) {
            PyErr_Format(PyExc_ValueError, "the message holds the delimiter %R", delimiter);
            return -1;
        }
        if (mark == '\n' && size > 0 && body[size - 1] == '\r') {
            return fail(PyExc_ValueError,
                        "the message ends in a carriage return, which lines do not keep");
        }
    }
    return 0;
}

static PyObject *join_delimited(const Bodies *bodies, char delimiter)
{
    PyObject *data = room_for(bodies, 1);
    if (data == NULL) return NULL;
    char *at = PyBytes_AS_STRING(data);
    for (Py_ssize_t i = 0; i < bodies->count; i++) {
        at = put_body(at, bodies->items[i]);
        *at++ = delimiter;
    }
    return data;
}

static PyObject *pack_delimited(PyObject *Py_UNUSED(module), PyObject *const *args,
                                Py_ssize_t nargs)
{
    char delimiter;
    if (check_count("pack_delimited", nargs, 2) < 0) return NULL;
    if (to_delimiter(args[1], &delimiter) < 0) return NULL;
    Bodies bodies;
    if (to_bodies(args[0], &bodies) < 0) return NULL;
    int failed = check_bodies(&bodies, args[1]);
    PyObject *data = failed ? NULL : join_delimited(&bodies, delimiter);
    Py_DECREF(bodies.owner);
    return data;
}

/* Return the data as bytes, which are empty or end with the delimiter. */
static PyObject *delimited(const char *name, PyObject *const *args, Py_ssize_t nargs,
                           char *delimiter)
{
    if (check_count(name, nargs, 2) < 0 || to_delimiter(args[1], delimiter) < 0) return NULL;
    PyObject *data = whole(args[0]);
    if (data == NULL) return NULL;
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    if (size > 0 && PyBytes_AS_STRING(data)[size - 1] != *delimiter) {
        PyErr_Format(PyExc_ValueError, "the data does not end with the delimiter %R", args[1]);
        Py_CLEAR(data);
    }
    return data;
}

/* Count the messages, and the carriage returns that go with their newlines. */
static Py_ssize_t count_ends(char delimiter, const char *data, Py_ssize_t size, Py_ssize_t *returns)
{
    Py_ssize_t count = 0;
    *returns = 0;
    for (const char *at = data; at < data + size; at++, count++) {
        at = memchr(at, delimiter, data + size - at);  /* there is one: the last byte */
        *returns += delimiter == '\n' && at > data && at[-1] == '\r';
    }
    return count;
}

static PyObject *scan_delimited(PyObject *Py_UNUSED(module), PyObject *const *args,
                                Py_ssize_t nargs)
{
    char delimiter;
    PyObject *body = delimited("scan_delimited", args, nargs, &delimiter);
    if (body == NULL) return NULL;
    Py_ssize_t size = PyBytes_GET_SIZE(body);
    Py_ssize_t returns;
    Py_ssize_t count = count_ends(delimiter, PyBytes_AS_STRING(body), size, &returns);
    Py_DECREF(body);
    return Py_BuildValue("nn", count, size - count - returns);
}

static PyObject *split_at(char delimiter, const char *data, Py_ssize_t size)
{
    Py_ssize_t returns;
    Py_ssize_t count = count_ends(delimiter, data, size, &returns);
    PyObject *messages = PyList_New(count);
    if (messages == NULL) return NULL;
    const char *begin = data;
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *end = memchr(begin, delimiter, data + size - begin);
        int returned = delimiter == '\n' && end > begin && end[-1] == '\r';
        if (put_message(messages, i, begin, end - begin - returned) < 0) {
            Py_DECREF(messages);
            return NULL;
        }
        begin = end + 1;
    }
    return messages;
}

static PyObject *split_delimited(PyObject *Py_UNUSED(module), PyObject *const *args,
                                 Py_ssize_t nargs)
{
    char delimiter;
    PyObject *body = delimited("split_delimited", args, nargs, &delimiter);
    if (body == NULL) return NULL;
    PyObject *messages = split_at(delimiter, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body));
    Py_DECREF(body);
    return messages;
}

/* -- length ----------------------------------------------------------------------------- */

static int check_lengths(const Bodies *bodies)
{
    for (Py_ssize_t i = 0; i < bodies->count; i++) {
        if (PyBytes_GET_SIZE(bodies->items[i]) > MOST_IN_U32) {
            return fail(PyExc_ValueError, "a length-delimited message must be shorter than 4 GiB");
        }
    }
    return 0;
}

static PyObject *join_lengths(const Bodies *bodies, bool little)
{
    PyObject *data = room_for(bodies, LENGTH);
    if (data == NULL) return NULL;
    char *at = PyBytes_AS_STRING(data);
    for (Py_ssize_t i = 0; i < bodies->count; i++) {
        put_length(at, (uint32_t)PyBytes_GET_SIZE(bodies->items[i]), little);
        at = put_body(at + LENGTH, bodies->items[i]);
    }
    return data;
}

static int to_little(PyObject *byteorder, bool *little)
{
    if (PyUnicode_CheckExact(byteorder)) {
        *little = PyUnicode_CompareWithASCIIString(byteorder, "little") == 0;
        if (*little || PyUnicode_CompareWithASCIIString(byteorder, "big") == 0) return 0;
    }
    return fail(PyExc_ValueError, "a byte order is 'big' or 'little'");
}

static PyObject *pack_length(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    bool little;
    if (check_count("pack_length", nargs, 2) < 0 || to_little(args[1], &little) < 0) return NULL;
    Bodies bodies;
    if (to_bodies(args[0], &bodies) < 0) return NULL;
    PyObject *data = check_lengths(&bodies) < 0 ? NULL : join_lengths(&bodies, little);
    Py_DECREF(bodies.owner);
    return data;
}

/* Count the whole messages at the head of the data, up to one longer than the limit. */
static Py_ssize_t count_whole(const char *data, Py_ssize_t size, int64_t limit, bool little,
                              Py_ssize_t *end)
{
    Py_ssize_t count = 0;
    *end = 0;
    while (size - *end >= LENGTH) {
        Py_ssize_t length = get_length(data + *end, little);
        if (length > limit || length > size - *end - LENGTH) break;
        *end += LENGTH + length;
        count++;
    }
    return count;
}

static PyObject *scan_length(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int64_t limit;
    bool little;
    if (check_count("scan_length", nargs, 3) < 0 || to_int64(args[1], &limit) < 0) return NULL;
    if (to_little(args[2], &little) < 0) return NULL;
    PyObject *body = whole(args[0]);
    if (body == NULL) return NULL;
    Py_ssize_t end;
    const char *data = PyBytes_AS_STRING(body);
    Py_ssize_t count = count_whole(data, PyBytes_GET_SIZE(body), limit, little, &end);
    Py_DECREF(body);
    return Py_BuildValue("nnn", count, end, end - LENGTH * count);
}

static PyObject *split_at_lengths(const char *data, Py_ssize_t size, bool little)
{
    Py_ssize_t end;
    Py_ssize_t count = count_whole(data, size, INT64_MAX, little, &end);
    if (end != size) {
        PyErr_SetString(PyExc_ValueError, "the data ends within a message");
        return NULL;
    }
    PyObject *messages = PyList_New(count);
    if (messages == NULL) return NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t length = get_length(data, little);
        if (put_message(messages, i, data + LENGTH, length) < 0) {
            Py_DECREF(messages);
            return NULL;
        }
        data += LENGTH + length;
    }
    return messages;
}

static PyObject *split_length(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    bool little;
    if (check_count("split_length", nargs, 2) < 0 || to_little(args[1], &little) < 0) return NULL;
    PyObject *body = whole(args[0]);
    if (body == NULL) return NULL;
    PyObject *messages = split_at_lengths(PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), little);
    Py_DECREF(body);
    return messages;
}

/* -- the module ------------------------------------------------------------------------- */

/* By way of a type of which no compiler warns. */
#define FASTCALL(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL
#define SEE "mpsr._speedups.codec_py"

static PyMethodDef packer_methods[] = {
    {"open", packer_open, METH_O, SIGNATURE("open($self, limit, /)")},
    {"append", packer_append, METH_O, SIGNATURE("append($self, message, /)")},
    {"extend", FASTCALL(packer_extend), SIGNATURE("extend($self, messages, start, /)")},
    {"try_extend", packer_try_extend, METH_O, SIGNATURE("try_extend($self, messages, /)")},
    {"take", packer_take, METH_O, SIGNATURE("take($self, first_seq, /)")},
    {"close", packer_close, METH_NOARGS, SIGNATURE("close($self, /)")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef packer_properties[] = {
    {"cost", packer_cost, NULL, "See mpsr._speedups.codec_py.", NULL},
    {"taken", packer_taken, NULL, "See mpsr._speedups.codec_py.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot packer_slots[] = {
    {Py_tp_doc, SIGNATURE("Packer(max_message, /)")},
    {Py_tp_new, packer_new},
    {Py_tp_traverse, traverse_type},
    {Py_tp_dealloc, packer_dealloc},
    {Py_tp_methods, packer_methods},
    {Py_tp_getset, packer_properties},
    {Py_sq_length, packer_length},
    {0, NULL},
};

static PyType_Spec packer_spec = {
    .name = "mpsr._speedups._c.Packer",
    .basicsize = sizeof(Packer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = packer_slots,
};

static PyMethodDef assembly_methods[] = {
    {"rooms", assembly_rooms, METH_NOARGS, SIGNATURE("rooms($self, /)")},
    {"advance", assembly_advance, METH_O, SIGNATURE("advance($self, size, /)")},
    {"extend", assembly_extend, METH_O, SIGNATURE("extend($self, piece, /)")},
    {"take", assembly_take, METH_NOARGS, SIGNATURE("take($self, /)")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef assembly_properties[] = {
    {"filled", assembly_filled, NULL, "See mpsr._speedups.codec_py.", NULL},
    {"missing", assembly_missing, NULL, "See mpsr._speedups.codec_py.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot assembly_slots[] = {
    {Py_tp_doc, SIGNATURE("Assembly(sizes, trusted, /)")},
    {Py_tp_new, assembly_new},
    {Py_tp_traverse, traverse_type},
    {Py_tp_dealloc, assembly_dealloc},
    {Py_tp_methods, assembly_methods},
    {Py_tp_getset, assembly_properties},
    {Py_bf_getbuffer, assembly_get_buffer},
    {Py_bf_releasebuffer, assembly_release_buffer},
    {0, NULL},
};

static PyType_Spec assembly_spec = {
    .name = "mpsr._speedups._c.Assembly",
    .basicsize = sizeof(Assembly),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = assembly_slots,
};

static PyMethodDef iterator_methods[] = {
    {"__length_hint__", iterator_length_hint, METH_NOARGS, SIGNATURE("__length_hint__($self, /)")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_doc, SIGNATURE("iter_batch(payload, start, /)")},
    {Py_tp_new, iterator_new},
    {Py_tp_traverse, iterator_traverse},
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {Py_tp_methods, iterator_methods},
    {0, NULL},
};

static PyType_Spec iterator_spec = {
    .name = "mpsr._speedups._c.iter_batch",
    .basicsize = sizeof(BatchIterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = iterator_slots,
};

static PyMethodDef codec_functions[] = {
    {"to_bytes", to_bytes, METH_O, SIGNATURE("to_bytes($module, message, /)")},
    {"longest", longest, METH_O, SIGNATURE("longest($module, messages, /)")},
    {"pack_batch", FASTCALL(pack_batch), SIGNATURE("pack_batch($module, messages, first_seq, /)")},
    {"scan_batch", scan_batch, METH_O, SIGNATURE("scan_batch($module, payload, /)")},
    {"scan_batches", FASTCALL(scan_batches),
     SIGNATURE("scan_batches($module, data, first_seq, limit, /)")},
    {"scan_head", FASTCALL(scan_head), SIGNATURE("scan_head($module, head, length, /)")},
    {"split_batch", FASTCALL(split_batch), SIGNATURE("split_batch($module, payload, start, /)")},
    {"pack_delimited", FASTCALL(pack_delimited),
     SIGNATURE("pack_delimited($module, messages, delimiter, /)")},
    {"scan_delimited", FASTCALL(scan_delimited),
     SIGNATURE("scan_delimited($module, data, delimiter, /)")},
    {"split_delimited", FASTCALL(split_delimited),
     SIGNATURE("split_delimited($module, data, delimiter, /)")},
    {"pack_length", FASTCALL(pack_length),
     SIGNATURE("pack_length($module, messages, byteorder, /)")},
    {"scan_length", FASTCALL(scan_length),
     SIGNATURE("scan_length($module, data, limit, byteorder, /)")},
    {"split_length", FASTCALL(split_length),
     SIGNATURE("split_length($module, data, byteorder, /)")},
    {NULL, NULL, 0, NULL},
};

int add_codec(PyObject *module)
{
    if (PyModule_AddFunctions(module, codec_functions) < 0) return -1;
    if (add_type(module, &iterator_spec) < 0 || add_type(module, &packer_spec) < 0) return -1;
    return add_type(module, &assembly_spec);
}
