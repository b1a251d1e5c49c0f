/* Hold signals back from a thread while it changes what a handler may use; see pthread_sigmask(3).
 *
 * Python runs a handler between any two steps of the main thread. While the mask is held a signal
 * to this thread waits, so a critical section is not interrupted. A signal that the kernel gives
 * to another thread of the program is still handled by the main thread at once.
 */

#include "speedups.h"

#include <signal.h>

static _Thread_local int depth;        /* sections entered, and not left */
static _Thread_local sigset_t before;  /* the mask outside of them */

static PyObject *mask_enter(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    if (depth == 0) {
        sigset_t all, mine;
        sigfillset(&all);
        int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
        for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&all, faults[i]);
        /* Handlers of what has come by now run first: once outside of the mask, and once for
         * what comes between the two steps. */
        if (PyErr_CheckSignals() < 0) return NULL;
        if (pthread_sigmask(SIG_BLOCK, &all, &mine) != 0) return PyErr_SetFromErrno(PyExc_OSError);
        if (PyErr_CheckSignals() < 0) {
            pthread_sigmask(SIG_SETMASK, &mine, NULL);
            return NULL;
        }
        before = mine;
    }
    depth++;
    Py_RETURN_NONE;
}

static PyObject *mask_exit(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(arguments))
{
    if (depth > 0 && --depth == 0) pthread_sigmask(SIG_SETMASK, &before, NULL);
    Py_RETURN_NONE;
}

/* -- the module ------------------------------------------------------------------------- */

#define SEE "mpsr.system.sigmask"

static PyMethodDef mask_methods[] = {
    {"__enter__", mask_enter, METH_NOARGS, SIGNATURE("__enter__($self, /)")},
    {"__exit__", mask_exit, METH_VARARGS, SIGNATURE("__exit__($self, /, *error)")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot mask_slots[] = {
    {Py_tp_doc, SIGNATURE("SignalMask()")},
    {Py_tp_methods, mask_methods},
    {0, NULL},
};

static PyType_Spec mask_spec = {
    .name = "mpsr._speedups._c.SignalMask",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = mask_slots,
};

int add_sigmask(PyObject *module)
{
    return add_type(module, &mask_spec);
}
