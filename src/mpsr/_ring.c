/* Carry a stream of bytes from one process to another, through memory that both have mapped.
 *
 * The memory is a page of control and a power of two of data. The producer alone moves ``head``,
 * how many bytes were ever written, and the receiver alone ``tail``, how many were ever read;
 * neither wraps. The data is mapped twice in a row, so that what is in the ring, and what is
 * free, are one piece each.
 *
 * The other end may be hostile, and write anything anywhere at any time. So each end counts for
 * itself, in memory of its own; believes the other's counter only where it can be true, and only
 * in the copy that it looked at; and takes the bytes out before anybody looks at them.
 *
 * Who finds nothing to do says so, and looks again before it sleeps; who did something looks
 * behind it whether the other sleeps. Each writes one word, then reads the other's, and all four
 * steps are sequentially consistent: so it cannot be that both read the old one (Dekker). Either
 * who sleeps sees what was done, or who did it sees the sleeper, and wakes it.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    CONTROL = 4096,          /* bytes before the data */
    LINE = 64,               /* bytes of a cache line: what one end writes shares none */
    QUIET_COPY = 8 * 1024,   /* bytes: a longer copy lets other threads run meanwhile */
    PIECE = 128 * 1024,      /* bytes written before the receiver may see them */
    ENOUGH = 4,              /* a part of the ring: with less room nobody is woken */
};

/* What a producer that sleeps is woken by. */
enum { AWAKE, BY_SOCKET, BY_FUTEX };

typedef struct {
    _Alignas(LINE) _Atomic uint64_t head;
    _Alignas(LINE) _Atomic uint64_t tail;
    _Alignas(LINE) _Atomic uint32_t reader_sleeps;
    _Alignas(LINE) _Atomic uint32_t writer_sleeps;
} Control;

_Static_assert(sizeof(Control) <= CONTROL, "the control page holds it");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "across processes");

typedef struct {
    PyObject_HEAD
    Control *control;
    char *data;
    uint64_t size;
    uint64_t own;    /* this end's counter */
    uint64_t other;  /* the other end's, as last seen */
    int users;       /* calls under way: the interpreter lock may be free meanwhile */
    int closed;
    int interrupted;
} Ring;

/* -- mapping ---------------------------------------------------------------------------- */

static void unmap(Ring *ring)
{
    if (ring->control != NULL) munmap(ring->control, CONTROL + 2 * ring->size);
    ring->control = NULL;
}

static int map_at(char *where, size_t size, int descriptor, off_t offset)
{
    int flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE;
    return mmap(where, size, PROT_READ | PROT_WRITE, flags, descriptor, offset) == where ? 0 : -1;
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "", NULL};
    int descriptor;
    unsigned int size;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iI", names, &descriptor, &size)) return NULL;
    if (size < CONTROL || size > (1U << 30) || (size & (size - 1)) != 0) {
        return PyErr_Format(PyExc_ValueError, "a ring cannot have %u bytes", size);
    }
    Ring *self = (Ring *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->size = size;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *at = mmap(NULL, CONTROL + 2 * (size_t)size, PROT_NONE, flags, -1, 0);
    if (at == MAP_FAILED) goto failed;
    self->control = (Control *)at;
    self->data = at + CONTROL;
    if (map_at(at, CONTROL + (size_t)size, descriptor, 0) < 0) goto failed;
    if (map_at(self->data + size, size, descriptor, CONTROL) < 0) goto failed;
    return (PyObject *)self;
failed:
    PyErr_SetFromErrno(PyExc_OSError);
    Py_DECREF(self);
    return NULL;
}

static void ring_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    unmap((Ring *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static Ring *enter(PyObject *self)
{
    Ring *ring = (Ring *)self;
    if (ring->closed) {
        PyErr_SetString(PyExc_ValueError, "the ring is closed");
        return NULL;
    }
    ring->users++;
    return ring;
}

static void leave(Ring *ring)
{
    ring->users--;
    if (ring->closed && ring->users == 0) unmap(ring);
}

static PyObject *ring_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = (Ring *)self;
    ring->closed = 1;
    if (ring->users == 0) unmap(ring);
    Py_RETURN_NONE;
}

/* -- both ends -------------------------------------------------------------------------- */

static int broken(void)
{
    PyErr_SetString(PyExc_ValueError, "the counters of the ring cannot be true");
    return -1;
}

static void copy(char *to, const char *from, size_t size)
{
    if (size < QUIET_COPY) {
        memcpy(to, from, size);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, from, size);
    Py_END_ALLOW_THREADS
}

static long futex(_Atomic uint32_t *word, int operation, uint32_t value, struct timespec *until)
{
    return syscall(SYS_futex, (uint32_t *)word, operation, value, until, NULL,
                   FUTEX_BITSET_MATCH_ANY);
}

/* Have a sleeping producer awake; tell whether that is left to the socket. */
static int rouse(Ring *ring)
{
    uint32_t sleeps = atomic_exchange(&ring->control->writer_sleeps, AWAKE);
    if (sleeps == BY_FUTEX) futex(&ring->control->writer_sleeps, FUTEX_WAKE, 1, NULL);
    return sleeps != AWAKE && sleeps != BY_FUTEX;
}

/* -- the producer's end ----------------------------------------------------------------- */

/* Look how much room there is. */
static int look_for_room(Ring *ring, uint64_t *room)
{
    uint64_t filled = ring->own - ring->other;
    uint64_t tail = atomic_load(&ring->control->tail);
    if (ring->own - tail > filled) return broken();
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
            copy(ring->data + ring->own % ring->size, (char *)buffer.buf + at, size);
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
    Ring *ring = enter(self);
    int failed = ring == NULL || write_all(ring, buffers, skip < 0 ? 0 : skip, &written) < 0;
    if (ring != NULL) leave(ring);
    Py_DECREF(buffers);
    return failed ? NULL : PyLong_FromSsize_t(written);
}

static PyObject *writer_rouses(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = enter(self);
    if (ring == NULL) return NULL;
    int sleeps = sleeping_reader(ring) && atomic_exchange(&ring->control->reader_sleeps, 0) != 0;
    leave(ring);
    return PyBool_FromLong(sleeps);
}

/* Say that the producer sleeps, then look again; tell whether it may stay awake. */
static int fall_asleep(Ring *ring, uint32_t how)
{
    uint64_t room;
    atomic_store(&ring->control->writer_sleeps, how);
    if (look_for_room(ring, &room) < 0) return -1;
    if (room < ring->size / ENOUGH) return 0;
    atomic_store(&ring->control->writer_sleeps, AWAKE);
    return 1;
}

static PyObject *writer_sleeps(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = enter(self);
    if (ring == NULL) return NULL;
    int awake = fall_asleep(ring, BY_SOCKET);
    leave(ring);
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
        result = futex(&ring->control->writer_sleeps, FUTEX_WAIT_BITSET, BY_FUTEX, until);
        error = errno;
        Py_END_ALLOW_THREADS
        if (result < 0 && error == EINTR && PyErr_CheckSignals() < 0) return -1;
    }
    uint64_t room;
    if (look_for_room(ring, &room) < 0) return -1;
    return room > 0 && !ring->interrupted;
}

static PyObject *writer_sleep(PyObject *self, PyObject *seconds)
{
    double most = PyFloat_AsDouble(seconds);
    if (most == -1.0 && PyErr_Occurred()) return NULL;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    long long end = until.tv_nsec + (long long)(most * 1e9);
    until.tv_sec += end / 1000000000;
    until.tv_nsec = end % 1000000000;
    Ring *ring = enter(self);
    if (ring == NULL) return NULL;
    int awake = sleep_until(ring, &until);
    leave(ring);
    return awake < 0 ? NULL : PyBool_FromLong(awake);
}

static PyObject *writer_interrupt(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = enter(self);
    if (ring == NULL) return NULL;
    ring->interrupted = 1;
    rouse(ring);
    leave(ring);
    Py_RETURN_NONE;
}

/* -- the receiver's end ----------------------------------------------------------------- */

/* Look how many bytes there are. */
static int look_for_bytes(Ring *ring, uint64_t *filled)
{
    uint64_t before = ring->other - ring->own;
    uint64_t head = atomic_load(&ring->control->head);
    if (head - ring->own > ring->size || head - ring->own < before) return broken();
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
    copy(to, ring->data + ring->own % ring->size, size);
    ring->own += size;
}

static PyObject *receive(Ring *ring, Py_ssize_t most)
{
    uint64_t filled;
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
    Ring *ring = enter(self);
    if (ring == NULL) return NULL;
    PyObject *data = receive(ring, most);
    leave(ring);
    return data;
}

static int receive_into(Ring *ring, PyObject *rooms, Py_ssize_t *received)
{
    uint64_t filled;
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
    Ring *ring = enter(self);
    int failed = ring == NULL || receive_into(ring, rooms, &received) < 0;
    if (ring != NULL) leave(ring);
    Py_DECREF(rooms);
    return failed ? NULL : PyLong_FromSsize_t(received);
}

static PyObject *reader_rouses(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = enter(self);
    if (ring == NULL) return NULL;
    int by_socket = 0, failed = 0;
    if (atomic_load(&ring->control->writer_sleeps) != AWAKE) {
        /* An empty ring has room enough, so nobody sleeps at one for ever. */
        uint64_t filled = 0;
        failed = look_for_bytes(ring, &filled) < 0;
        if (!failed && ring->size - filled >= ring->size / ENOUGH) by_socket = rouse(ring);
    }
    leave(ring);
    return failed ? NULL : PyBool_FromLong(by_socket);
}

static PyObject *reader_length(Ring *ring)
{
    uint64_t filled;
    if (look_for_bytes(ring, &filled) < 0) return NULL;
    return PyLong_FromUnsignedLongLong(filled);
}

static PyObject *reader_filled(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = enter(self);
    if (ring == NULL) return NULL;
    PyObject *filled = reader_length(ring);
    leave(ring);
    return filled;
}

/* -- the module ------------------------------------------------------------------------- */

#define SIGNATURE(text) text "\n--\n\nSee mpsr._ring.pyi."

static PyMethodDef writer_methods[] = {
    {"write", writer_write, METH_VARARGS, SIGNATURE("write($self, buffers, skip, /)")},
    {"rouses", writer_rouses, METH_NOARGS, SIGNATURE("rouses($self, /)")},
    {"sleeps", writer_sleeps, METH_NOARGS, SIGNATURE("sleeps($self, /)")},
    {"sleep", writer_sleep, METH_O, SIGNATURE("sleep($self, seconds, /)")},
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

static PyType_Spec writer_spec = {
    .name = "mpsr._ring.Writer",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = writer_slots,
};

static PyMethodDef reader_methods[] = {
    {"recv", reader_recv, METH_O, SIGNATURE("recv($self, size, /)")},
    {"recv_into", reader_recv_into, METH_O, SIGNATURE("recv_into($self, rooms, /)")},
    {"rouses", reader_rouses, METH_NOARGS, SIGNATURE("rouses($self, /)")},
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

static PyType_Spec reader_spec = {
    .name = "mpsr._ring.Reader",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reader_slots,
};

static int add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL) return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

static int ring_exec(PyObject *module)
{
    if (PyModule_AddIntConstant(module, "CONTROL", CONTROL) < 0) return -1;
    if (add_type(module, &writer_spec) < 0) return -1;
    return add_type(module, &reader_spec);
}

/* As in the codec: the interpreter's lock guards what is private to one end. */
static PyModuleDef_Slot ring_slots[] = {
    {Py_mod_exec, ring_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static PyModuleDef ring_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mpsr._ring",
    .m_doc = "Carry bytes from one process to another through shared memory.",
    .m_slots = ring_slots,
};

PyMODINIT_FUNC PyInit__ring(void)
{
    return PyModuleDef_Init(&ring_module);
}
