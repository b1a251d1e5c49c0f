/* Read many datagrams or packets with one system call; see recvmmsg(2).
 *
 * The call does not wait, so the interpreter lock is kept.
 */

#include "speedups.h"

#ifdef __linux__

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum {
    MOST_DESCRIPTORS = 253,          /* that one message carries: SCM_MAX_FD of the kernel */
    KEPT_MEMORY = 4 * 1024 * 1024,   /* bytes: what a call brings beyond it is given back */
};

/* What comes along with one: who sent it, and descriptors. */
typedef union {
    struct cmsghdr aligned;
    char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))];
} Along;

typedef struct {
    PyObject_HEAD
    Py_ssize_t size;         /* bytes that one may have */
    Py_ssize_t count;        /* how many one call reads */
    char *memory;            /* count times size bytes; what is not touched takes none */
    struct mmsghdr *headers;
    struct iovec *places;
    Along *along;
} PacketReader;

static void prepare(PacketReader *self)
{
    memset(self->headers, 0, (size_t)self->count * sizeof *self->headers);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        self->places[i].iov_base = self->memory + i * self->size;
        self->places[i].iov_len = (size_t)self->size;
        self->headers[i].msg_hdr.msg_iov = &self->places[i];
        self->headers[i].msg_hdr.msg_iovlen = 1;
        self->headers[i].msg_hdr.msg_control = &self->along[i];
        self->headers[i].msg_hdr.msg_controllen = sizeof self->along[i];
    }
}

/* Append what came along: the sender is None where the kernel tells none. */
static int take_along(struct msghdr *header, PyObject **sender, PyObject *descriptors)
{
    for (struct cmsghdr *each = CMSG_FIRSTHDR(header); each; each = CMSG_NXTHDR(header, each)) {
        if (each->cmsg_level != SOL_SOCKET) continue;
        if (each->cmsg_type == SCM_CREDENTIALS) {
            struct ucred who;
            memcpy(&who, CMSG_DATA(each), sizeof who);
            PyObject *found = Py_BuildValue("iII", (int)who.pid, (unsigned)who.uid,
                                            (unsigned)who.gid);
            if (found == NULL) return -1;
            Py_XSETREF(*sender, found);
        } else if (each->cmsg_type == SCM_RIGHTS) {
            size_t many = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < many; i++) {
                int descriptor;
                memcpy(&descriptor, CMSG_DATA(each) + i * sizeof descriptor, sizeof descriptor);
                PyObject *number = PyLong_FromLong(descriptor);
                int failed = number == NULL || PyList_Append(descriptors, number);
                Py_XDECREF(number);
                if (failed) return -1;
            }
        }
    }
    return 0;
}

/* Return (data, sender, descriptors); data is None where it was too long. */
static PyObject *item_of(PacketReader *self, Py_ssize_t index)
{
    struct mmsghdr *found = &self->headers[index];
    PyObject *sender = NULL, *data, *descriptors = PyList_New(0), *item = NULL;
    if (descriptors == NULL) return NULL;
    if (take_along(&found->msg_hdr, &sender, descriptors) == 0) {
        if (found->msg_hdr.msg_flags & MSG_TRUNC)
            data = Py_NewRef(Py_None);
        else
            data = PyBytes_FromStringAndSize(self->places[index].iov_base, found->msg_len);
        if (data != NULL)
            item = Py_BuildValue("NOO", data, sender ? sender : Py_None, descriptors);
    }
    Py_XDECREF(sender);
    Py_DECREF(descriptors);
    return item;
}

static PyObject *packets_read(PyObject *op, PyObject *sock)
{
    PacketReader *self = (PacketReader *)op;
    int descriptor = PyObject_AsFileDescriptor(sock);
    if (descriptor < 0) return NULL;
    prepare(self);
    int got = recvmmsg(descriptor, self->headers, (unsigned)self->count,
                       MSG_DONTWAIT | MSG_CMSG_CLOEXEC, NULL);
    if (got < 0 && (errno == ENOSYS || errno == EPERM)) {  /* a policy may know recvmsg(2) only */
        ssize_t size = recvmsg(descriptor, &self->headers[0].msg_hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (size >= 0) {
            self->headers[0].msg_len = (unsigned)size;
            got = 1;
        }
    }
    if (got < 0) return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *items = PyList_New(got);
    size_t size = 0;
    for (Py_ssize_t i = 0; items != NULL && i < got; i++) {
        PyObject *item = item_of(self, i);
        if (item == NULL) Py_CLEAR(items);
        else PyList_SET_ITEM(items, i, item);
        size += self->headers[i].msg_len;
    }
    if (size > KEPT_MEMORY) madvise(self->memory, (size_t)(self->count * self->size), MADV_DONTNEED);
    return items;
}

static PyObject *packets_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    Py_ssize_t size, count;
    if (keywords != NULL && PyDict_GET_SIZE(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "PacketReader() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "nn:PacketReader", &size, &count)) return NULL;
    if (size < 1 || count < 1 || count > 1024 || size > PY_SSIZE_T_MAX / count) {
        PyErr_SetString(PyExc_ValueError, "no such memory: choose a smaller size or count");
        return NULL;
    }
    PacketReader *self = (PacketReader *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->size = size;
    self->count = count;
    void *memory = mmap(NULL, (size_t)(size * count), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    self->memory = memory == MAP_FAILED ? NULL : memory;
    self->headers = PyMem_Calloc((size_t)count, sizeof *self->headers);
    self->places = PyMem_Calloc((size_t)count, sizeof *self->places);
    self->along = PyMem_Calloc((size_t)count, sizeof *self->along);
    if (!self->memory || !self->headers || !self->places || !self->along) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void packets_dealloc(PyObject *op)
{
    PacketReader *self = (PacketReader *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->memory) munmap(self->memory, (size_t)(self->count * self->size));
    PyMem_Free(self->headers);
    PyMem_Free(self->places);
    PyMem_Free(self->along);
    type->tp_free(op);
    Py_DECREF(type);
}

/* -- the module ------------------------------------------------------------------------- */

#define SEE "mpsr._speedups.packets_py"

static PyMethodDef packets_methods[] = {
    {"read", packets_read, METH_O, SIGNATURE("read($self, sock, /)")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot packets_slots[] = {
    {Py_tp_doc, SIGNATURE("PacketReader(size, count, /)")},
    {Py_tp_new, packets_new},
    {Py_tp_dealloc, packets_dealloc},
    {Py_tp_methods, packets_methods},
    {0, NULL},
};

static PyType_Spec packets_spec = {
    .name = "mpsr._speedups._c.PacketReader",
    .basicsize = sizeof(PacketReader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = packets_slots,
};

int add_packets(PyObject *module)
{
    return add_type(module, &packets_spec);
}

#else

int add_packets(PyObject *Py_UNUSED(module))
{
    return 0;  /* it takes recvmmsg(2); the twin is used */
}

#endif
