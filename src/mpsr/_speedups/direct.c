/* Write a short message straight to the socket, as a frame of its own.
 *
 * It is one step: no foreign code runs, and the interpreter lock is kept, since the write does
 * not wait. So neither another thread nor a signal handler can break in, and no lock is needed.
 */

#include "speedups.h"

#include <structmember.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "frame.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0  /* Python ignores SIGPIPE anyway */
#endif

enum { HEAD = FRAME_HEADER + BATCH_HEAD + 2 * OFFSET };  /* what stands before the message */

typedef struct {
    PyObject_HEAD
    double interval;     /* seconds until a token is there again */
    double ahead;        /* seconds that tokens may be taken ahead */
    double full_at;      /* when all tokens are there again, on the monotonic clock */
    int descriptor;      /* of the socket; -1 while closed */
    dev_t device;        /* what file that is: the program may close it, and use its number */
    ino_t inode;
    Py_ssize_t count;    /* of the messages that may still be written */
    Py_ssize_t longest;  /* bytes of a message */
    uint64_t first_seq;
    PyObject *frames;    /* a list of what was written since it was opened */
} DirectWriter;

static int take_token(DirectWriter *self)
{
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time) < 0) return 0;
    double now = (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
    if (self->full_at - now > self->ahead) return 0;
    self->full_at = Py_MAX(self->full_at, now) + self->interval;
    return 1;
}

static PyObject *frame_of(PyObject *message, uint64_t seq)
{
    Py_ssize_t size = PyBytes_GET_SIZE(message);
    PyObject *frame = PyBytes_FromStringAndSize(NULL, HEAD + size);
    if (frame == NULL) return NULL;
    char *offset = put_head(PyBytes_AS_STRING(frame), HEAD - FRAME_HEADER + size, seq, 1);
    put_offset(offset + OFFSET, (uint32_t)size);
    memcpy(offset + 2 * OFFSET, PyBytes_AS_STRING(message), size);
    return frame;
}

static int is_ours(DirectWriter *self)
{
    struct stat found;
    return fstat(self->descriptor, &found) == 0 && found.st_dev == self->device
           && found.st_ino == self->inode;
}

/* Write a frame, which is remembered; tell whether it went. */
static int write_last(DirectWriter *self)
{
    Py_ssize_t last = PyList_GET_SIZE(self->frames) - 1;
    PyObject *frame = PyList_GET_ITEM(self->frames, last);
    Py_ssize_t size = PyBytes_GET_SIZE(frame);
    Py_ssize_t sent = send(self->descriptor, PyBytes_AS_STRING(frame), size,
                           MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == size) return 1;
    /* The kernel takes so short a frame whole; if not, all is sent again on a new connection. */
    if (sent > 0) shutdown(self->descriptor, SHUT_RDWR);
    self->descriptor = -1;
    return sent > 0 ? 1 : PyList_SetSlice(self->frames, last, last + 1, NULL);
}

static PyObject *direct_write(PyObject *op, PyObject *message)
{
    DirectWriter *self = (DirectWriter *)op;
    if (self->descriptor < 0 || self->count == 0 || !PyBytes_CheckExact(message)) Py_RETURN_FALSE;
    if (PyBytes_GET_SIZE(message) > self->longest || !take_token(self)) Py_RETURN_FALSE;
    if (!is_ours(self)) {
        self->descriptor = -1;
        Py_RETURN_FALSE;
    }
    PyObject *frame = frame_of(message, self->first_seq + (uint64_t)PyList_GET_SIZE(self->frames));
    if (frame == NULL) return NULL;
    int failed = PyList_Append(self->frames, frame);
    Py_DECREF(frame);
    if (failed) return NULL;
    self->count--;
    int written = write_last(self);
    return written < 0 ? NULL : PyBool_FromLong(written);
}

static PyObject *direct_open(PyObject *op, PyObject *args)
{
    DirectWriter *self = (DirectWriter *)op;
    int descriptor;
    unsigned long long first_seq;
    Py_ssize_t count, longest;
    if (!PyArg_ParseTuple(args, "iKnn:open", &descriptor, &first_seq, &count, &longest)) return NULL;
    if (count < 0 || (uint64_t)count > MAX_SEQ || first_seq > MAX_SEQ - (uint64_t)count) {
        PyErr_SetString(PyExc_ValueError, "the sequence numbers must fit in signed 64 bits");
        return NULL;
    }
    struct stat found;
    if (fstat(descriptor, &found) < 0) return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *frames = PyList_New(0);
    if (frames == NULL) return NULL;
    Py_SETREF(self->frames, frames);
    self->descriptor = descriptor;
    self->device = found.st_dev;
    self->inode = found.st_ino;
    self->first_seq = first_seq;
    self->count = count;
    self->longest = Py_MIN(longest, UINT32_MAX - HEAD);
    Py_RETURN_NONE;
}

static PyObject *direct_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DirectWriter *self = (DirectWriter *)op;
    self->descriptor = -1;
    return Py_BuildValue("KO", (unsigned long long)self->first_seq, self->frames);
}

static PyObject *direct_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    double interval;
    Py_ssize_t burst;
    if (keywords != NULL && PyDict_GET_SIZE(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "DirectWriter() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "dn:DirectWriter", &interval, &burst)) return NULL;
    PyObject *frames = PyList_New(0);
    if (frames == NULL) return NULL;
    DirectWriter *self = (DirectWriter *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(frames);
        return NULL;
    }
    self->interval = interval;
    self->ahead = interval * (double)(burst - 1);
    self->descriptor = -1;
    self->frames = frames;
    return (PyObject *)self;
}

static int direct_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((DirectWriter *)self)->frames);
    return 0;
}

static void direct_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((DirectWriter *)self)->frames);
    type->tp_free(self);
    Py_DECREF(type);
}

/* -- the module ------------------------------------------------------------------------- */

#define SEE "mpsr._speedups.direct_py"

static PyMethodDef direct_methods[] = {
    {"write", direct_write, METH_O, SIGNATURE("write($self, message, /)")},
    {"open", direct_open, METH_VARARGS,
     SIGNATURE("open($self, descriptor, first_seq, count, longest, /)")},
    {"close", direct_close, METH_NOARGS, SIGNATURE("close($self, /)")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef direct_members[] = {
    {"full_at", T_DOUBLE, offsetof(DirectWriter, full_at), 0, "See " SEE "."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot direct_slots[] = {
    {Py_tp_doc, SIGNATURE("DirectWriter(interval, burst, /)")},
    {Py_tp_new, direct_new},
    {Py_tp_traverse, direct_traverse},
    {Py_tp_dealloc, direct_dealloc},
    {Py_tp_methods, direct_methods},
    {Py_tp_members, direct_members},
    {0, NULL},
};

static PyType_Spec direct_spec = {
    .name = "mpsr._speedups._c.DirectWriter",
    .basicsize = sizeof(DirectWriter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = direct_slots,
};

int add_direct(PyObject *module)
{
    return add_type(module, &direct_spec);
}
