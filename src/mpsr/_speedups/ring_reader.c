/* The receiver's end of a ring: read, and have a sleeping producer woken. */

#include "speedups.h"

#ifdef __linux__

#include "ring.h"

/* Look how many bytes there are. */
static int look_for_bytes(Ring *ring, uint64_t *filled)
{
    uint64_t before = ring->other - ring->own;
    uint64_t head = atomic_load(&ring->control->head);
    if (head - ring->own > ring->size || head - ring->own < before) return ring_broken();
    ring->other = head;
    *filled = head - ring->own;
    return 0;
}

/* Look; where there is nothing, say that the receiver sleeps, and look again. */
static int look_or_sleep(Ring *ring, uint64_t *filled)
{
    if (look_for_bytes(ring, filled) < 0) return -1;
    if (*filled > 0) return 0;
    atomic_store(&ring->control->reader_sleeps, 1);
    if (look_for_bytes(ring, filled) < 0) return -1;
    if (*filled > 0) {
        atomic_store(&ring->control->reader_sleeps, 0);
        return 0;
    }
    PyErr_SetNone(PyExc_BlockingIOError);
    return -1;
}

static void take(Ring *ring, char *to, uint64_t size)
{
    ring_copy(to, ring->data + ring->own % ring->size, size);
    ring->own += size;
}

static PyObject *receive(Ring *ring, Py_ssize_t most)
{
    uint64_t filled = 0;
    if (look_or_sleep(ring, &filled) < 0) return NULL;
    if (filled > (uint64_t)most) filled = most;
    PyObject *data = PyBytes_FromStringAndSize(NULL, filled);
    if (data == NULL) return NULL;
    take(ring, PyBytes_AS_STRING(data), filled);
    atomic_store(&ring->control->tail, ring->own);
    return data;
}

static PyObject *reader_recv(PyObject *self, PyObject *size)
{
    Py_ssize_t most = PyLong_AsSsize_t(size);
    if (most == -1 && PyErr_Occurred()) return NULL;
    if (most < 1) return PyErr_Format(PyExc_ValueError, "recv(%zd)", most);
    Ring *ring = ring_enter(self);
    if (ring == NULL) return NULL;
    PyObject *data = receive(ring, most);
    ring_leave(ring);
    return data;
}

static int receive_into(Ring *ring, PyObject *rooms, Py_ssize_t *received)
{
    uint64_t filled = 0;
    if (look_or_sleep(ring, &filled) < 0) return -1;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(rooms) && filled > 0; i++) {
        Py_buffer room;
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(rooms, i), &room, PyBUF_WRITABLE) < 0) return -1;
        uint64_t size = (uint64_t)room.len < filled ? (uint64_t)room.len : filled;
        take(ring, room.buf, size);
        filled -= size;
        *received += size;
        PyBuffer_Release(&room);
    }
    atomic_store(&ring->control->tail, ring->own);
    return 0;
}

static PyObject *reader_recv_into(PyObject *self, PyObject *sequence)
{
    PyObject *rooms = PySequence_Tuple(sequence);
    if (rooms == NULL) return NULL;
    Py_ssize_t received = 0;
    Ring *ring = ring_enter(self);
    int failed = ring == NULL || receive_into(ring, rooms, &received) < 0;
    if (ring != NULL) ring_leave(ring);
    Py_DECREF(rooms);
    return failed ? NULL : PyLong_FromSsize_t(received);
}

static PyObject *reader_wake_writer(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = ring_enter(self);
    if (ring == NULL) return NULL;
    int by_socket = 0, failed = 0;
    if (atomic_load(&ring->control->writer_sleeps) != AWAKE) {
        /* An empty ring has room enough, so nobody sleeps at one for ever. */
        uint64_t filled = 0;
        failed = look_for_bytes(ring, &filled) < 0;
        if (!failed && ring->size - filled >= ring->size / ENOUGH) by_socket = ring_wake(ring);
    }
    ring_leave(ring);
    return failed ? NULL : PyBool_FromLong(by_socket);
}

static PyObject *reader_length(Ring *ring)
{
    uint64_t filled = 0;
    if (look_for_bytes(ring, &filled) < 0) return NULL;
    return PyLong_FromUnsignedLongLong(filled);
}

static PyObject *reader_filled(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = ring_enter(self);
    if (ring == NULL) return NULL;
    PyObject *filled = reader_length(ring);
    ring_leave(ring);
    return filled;
}

static PyMethodDef reader_methods[] = {
    {"recv", reader_recv, METH_O, SIGNATURE("recv($self, size, /)")},
    {"recv_into", reader_recv_into, METH_O, SIGNATURE("recv_into($self, rooms, /)")},
    {"wake_writer", reader_wake_writer, METH_NOARGS, SIGNATURE("wake_writer($self, /)")},
    {"filled", reader_filled, METH_NOARGS, SIGNATURE("filled($self, /)")},
    {"close", ring_close, METH_NOARGS, SIGNATURE("close($self, /)")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, SIGNATURE("Reader(descriptor, size, /)")},
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, reader_methods},
    {0, NULL},
};

PyType_Spec ring_reader_spec = {
    .name = "mpsr._speedups._c.Reader",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reader_slots,
};

#endif
