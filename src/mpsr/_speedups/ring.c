/* Carry a stream of bytes from one process to another, through memory that both have mapped.
 *
 * The memory is a page of control and a power of two of data, which so begins at a page. The producer alone moves ``head``,
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

#include "speedups.h"

#ifdef __linux__

#include "ring.h"

#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* -- mapping ---------------------------------------------------------------------------- */

static void unmap(Ring *ring)
{
    if (ring->control != NULL) munmap(ring->control, ring->before + 2 * ring->size);
    ring->control = NULL;
}

static int map_at(char *where, size_t size, int descriptor, off_t offset)
{
    int flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE;
    return mmap(where, size, PROT_READ | PROT_WRITE, flags, descriptor, offset) == where ? 0 : -1;
}

PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "", "", NULL};
    int descriptor;
    unsigned int size, page = (unsigned int)sysconf(_SC_PAGESIZE);
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iI|I", names, &descriptor, &size, &page))
        return NULL;
    if (size < page || size > (1U << 30) || (size & (size - 1)) != 0) {
        return PyErr_Format(PyExc_ValueError, "a ring cannot have %u bytes", size);
    }
    Ring *self = (Ring *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->size = size;
    self->before = page;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *at = mmap(NULL, page + 2 * (size_t)size, PROT_NONE, flags, -1, 0);
    if (at == MAP_FAILED) goto failed;
    self->control = (Control *)at;
    self->data = at + page;
    if (map_at(at, page + (size_t)size, descriptor, 0) < 0) goto failed;
    if (map_at(self->data + size, size, descriptor, page) < 0) goto failed;
    return (PyObject *)self;
failed:
    PyErr_SetFromErrno(PyExc_OSError);
    Py_DECREF(self);
    return NULL;
}

void ring_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    unmap((Ring *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

Ring *ring_enter(PyObject *self)
{
    Ring *ring = (Ring *)self;
    if (ring->closed) {
        PyErr_SetString(PyExc_ValueError, "the ring is closed");
        return NULL;
    }
    ring->users++;
    return ring;
}

void ring_leave(Ring *ring)
{
    ring->users--;
    if (ring->closed && ring->users == 0) unmap(ring);
}

PyObject *ring_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Ring *ring = (Ring *)self;
    ring->closed = 1;
    if (ring->users == 0) unmap(ring);
    Py_RETURN_NONE;
}

/* -- both ends -------------------------------------------------------------------------- */

int ring_broken(void)
{
    PyErr_SetString(PyExc_ValueError, "the counters of the ring cannot be true");
    return -1;
}

void ring_copy(char *to, const char *from, size_t size)
{
    if (size < QUIET_COPY) {
        memcpy(to, from, size);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, from, size);
    Py_END_ALLOW_THREADS
}

long ring_futex(_Atomic uint32_t *word, int operation, uint32_t value, struct timespec *until)
{
    return syscall(SYS_futex, (uint32_t *)word, operation, value, until, NULL,
                   FUTEX_BITSET_MATCH_ANY);
}

int ring_wake(Ring *ring)
{
    uint32_t sleeps = atomic_exchange(&ring->control->writer_sleeps, AWAKE);
    if (sleeps == BY_FUTEX) ring_futex(&ring->control->writer_sleeps, FUTEX_WAKE, 1, NULL);
    return sleeps != AWAKE && sleeps != BY_FUTEX;
}

int add_ring(PyObject *module)
{
    if (PyModule_AddIntConstant(module, "CONTROL", sysconf(_SC_PAGESIZE)) < 0) return -1;
    if (add_type(module, &ring_writer_spec) < 0) return -1;
    return add_type(module, &ring_reader_spec);
}

#else

int add_ring(PyObject *Py_UNUSED(module))
{
    return 0;  /* it takes futexes and memfd_create(2), which Linux alone has */
}

#endif
