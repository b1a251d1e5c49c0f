/* What both ends of a ring of shared memory share; ring.c tells how it works. */

#ifndef MPSR_RING_H
#define MPSR_RING_H

#include "speedups.h"

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#define SEE "mpsr._speedups._c"

enum {
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

_Static_assert(sizeof(Control) <= 4096, "the smallest page holds it");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "across processes");

typedef struct {
    PyObject_HEAD
    Control *control;
    char *data;
    size_t before;   /* bytes of the memory before the data: a page, whatever its size */
    uint64_t size;
    uint64_t own;    /* this end's counter */
    uint64_t other;  /* the other end's, as last seen */
    int users;       /* calls under way: the interpreter lock may be free meanwhile */
    int closed;
    int interrupted;
} Ring;

extern PyType_Spec ring_writer_spec, ring_reader_spec;

PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *keywords);
void ring_dealloc(PyObject *self);
PyObject *ring_close(PyObject *self, PyObject *ignored);

/* Begin a call, unless the ring is closed. */
Ring *ring_enter(PyObject *self);

/* End it; what was closed meanwhile is unmapped now. */
void ring_leave(Ring *ring);

/* Raise for counters that cannot be true. */
int ring_broken(void);

void ring_copy(char *to, const char *from, size_t size);

long ring_futex(_Atomic uint32_t *word, int operation, uint32_t value, struct timespec *until);

/* Have a sleeping producer awake; tell whether that is left to the socket. */
int ring_wake(Ring *ring);

#endif
