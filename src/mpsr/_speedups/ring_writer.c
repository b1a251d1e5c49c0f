/* The producer's end of a ring: write, and sleep until there is room. */

#include "speedups.h"

#ifdef __linux__

#include "ring.h"

#include <errno.h>
#include <linux/futex.h>

/* Look how much room there is. */
static int look_for_room(Ring *ring, uint64_t *room)
{
    uint64_t filled = ring->own - ring->other;
    uint64_t tail = atomic_load(&ring->control->tail);
    if (ring->own - tail > filled) return ring_broken();
    ring->other = tail;
    *room = ring->size - (ring->own - tail);
    return 0;
}

static int sleeping_reader(Ring *ring)
{
    return atomic_load(&ring->control->reader_sleeps) != 0;
}

/* Write what there is room for, behind the first ``skip`` bytes; return how much that was. */
static int write_all(Ring *ring, PyObject *buffers, Py_ssize_t skip, Py_ssize_t *written)
{
    uint64_t room = 0, unseen = 0;
    if (look_for_room(ring, &room) < 0) return -1;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(buffers) && room > 0; i++) {
        Py_buffer buffer;
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(buffers, i), &buffer, PyBUF_SIMPLE) < 0) return -1;
        Py_ssize_t at = skip < buffer.len ? skip : buffer.len;
        skip -= at;
        while (at < buffer.len && room > 0) {
            uint64_t size = buffer.len - at;
            if (size > room) size = room;
            if (size > PIECE - unseen) size = PIECE - unseen;
            ring_copy(ring->data + ring->own % ring->size, (char *)buffer.buf + at, size);
            ring->own += size;
            at += size;
            room -= size;
            unseen += size;
            *written += size;
            if (unseen < PIECE && room > 0) continue;
            atomic_store(&ring->control->head, ring->own);
            unseen = 0;
            if (sleeping_reader(ring)) room = 0;  /* first it is woken */
            else if (room == 0 && look_for_room(ring, &room) < 0) {
                PyBuffer_Release(&buffer);
                return -1;
            }
        }
        PyBuffer_Release(&buffer);
    }
    if (unseen > 0) atomic_store(&ring->control->head, ring->own);
    return 0;
}

static PyObject *writer_write(PyObject *self, PyObject *args)
{
    PyObject *sequence;
    Py_ssize_t skip, written = 0;
    if (!PyArg_ParseTuple(args, "On:write", &sequence, &skip)) return NULL;
    PyObject *buffers = PySequence_Tuple(sequence);
    if (buffers == NULL) return NULL;
    Ring *ring = ring_enter(self);
    int failed = ring == NULL || write_all(ring, buffers, skip < 0 ? 0 : skip, &written) < 0;
    if (ring != NULL) ring_leave(ring);
    Py_DECREF(buffers);
    return failed ? NULL : PyLong_FromSsize_t(written);
}

static PyObject *writer_reader_sleeps(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = ring_enter(self);
    if (ring == NULL) return NULL;
    int sleeps = sleeping_reader(ring) && atomic_exchange(&ring->control->reader_sleeps, 0) != 0;
    ring_leave(ring);
    return PyBool_FromLong(sleeps);
}

/* Say that the producer sleeps, then look again; tell whether it may stay awake. */
static int fall_asleep(Ring *ring, uint32_t how)
{
    uint64_t room = 0;
    atomic_store(&ring->control->writer_sleeps, how);
    if (look_for_room(ring, &room) < 0) return -1;
    if (room < ring->size / ENOUGH) return 0;
    atomic_store(&ring->control->writer_sleeps, AWAKE);
    return 1;
}

static PyObject *writer_announce_room(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = ring_enter(self);
    if (ring == NULL) return NULL;
    int awake = fall_asleep(ring, BY_SOCKET);
    ring_leave(ring);
    return awake < 0 ? NULL : PyBool_FromLong(!awake);
}

static int sleep_until(Ring *ring, struct timespec *until)
{
    long result = 0;
    int error = 0;
    /* The reader may wake who has filled the room again meanwhile. */
    while (!ring->interrupted && !(result < 0 && error == ETIMEDOUT)) {
        int awake = fall_asleep(ring, BY_FUTEX);
        if (awake != 0) return awake;
        Py_BEGIN_ALLOW_THREADS
        result = ring_futex(&ring->control->writer_sleeps, FUTEX_WAIT_BITSET, BY_FUTEX, until);
        error = errno;
        Py_END_ALLOW_THREADS
        if (result < 0 && error == EINTR && PyErr_CheckSignals() < 0) return -1;
    }
    uint64_t room = 0;
    if (look_for_room(ring, &room) < 0) return -1;
    return room > 0 && !ring->interrupted;
}

static PyObject *writer_wait_for_room(PyObject *self, PyObject *seconds)
{
    double most = PyFloat_AsDouble(seconds);
    if (most == -1.0 && PyErr_Occurred()) return NULL;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    long long end = until.tv_nsec + (long long)(most * 1e9);
    until.tv_sec += end / 1000000000;
    until.tv_nsec = end % 1000000000;
    Ring *ring = ring_enter(self);
    if (ring == NULL) return NULL;
    int awake = sleep_until(ring, &until);
    ring_leave(ring);
    return awake < 0 ? NULL : PyBool_FromLong(awake);
}

static PyObject *writer_interrupt(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = ring_enter(self);
    if (ring == NULL) return NULL;
    ring->interrupted = 1;
    ring_wake(ring);
    ring_leave(ring);
    Py_RETURN_NONE;
}

static PyMethodDef writer_methods[] = {
    {"write", writer_write, METH_VARARGS, SIGNATURE("write($self, buffers, skip, /)")},
    {"reader_sleeps", writer_reader_sleeps, METH_NOARGS, SIGNATURE("reader_sleeps($self, /)")},
    {"announce_room", writer_announce_room, METH_NOARGS,
     SIGNATURE("announce_room($self, /)")},
    {"wait_for_room", writer_wait_for_room, METH_O, SIGNATURE("wait_for_room($self, seconds, /)")},
    {"interrupt", writer_interrupt, METH_NOARGS, SIGNATURE("interrupt($self, /)")},
    {"close", ring_close, METH_NOARGS, SIGNATURE("close($self, /)")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, SIGNATURE("Writer(descriptor, size, /)")},
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, writer_methods},
    {0, NULL},
};

PyType_Spec ring_writer_spec = {
    .name = "mpsr._speedups._c.Writer",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = writer_slots,
};

#endif
