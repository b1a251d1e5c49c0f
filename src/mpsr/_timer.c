/* Make and arm a timer that is a descriptor; see timerfd_create(2). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <sys/timerfd.h>

static PyObject *timer_make(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    int descriptor = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (descriptor < 0) return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(descriptor);
}

static PyObject *timer_arm(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    int descriptor;
    double when;
    if (!PyArg_ParseTuple(arguments, "id:arm", &descriptor, &when)) return NULL;
    if (!(when >= 0 && when < 1e18)) {
        PyErr_SetString(PyExc_ValueError, "no time on the monotonic clock");
        return NULL;
    }
    double seconds = floor(when);
    struct itimerspec time = {
        .it_value = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((when - seconds) * 1e9)},
    };
    if (timerfd_settime(descriptor, TFD_TIMER_ABSTIME, &time, NULL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

/* -- the module ------------------------------------------------------------------------- */

#define SIGNATURE(text) text "\n--\n\nSee mpsr._timer.pyi."

static PyMethodDef timer_functions[] = {
    {"make", timer_make, METH_NOARGS, SIGNATURE("make()")},
    {"arm", timer_arm, METH_VARARGS, SIGNATURE("arm(descriptor, when, /)")},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot timer_slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef timer_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mpsr._timer",
    .m_doc = "Make and arm a timer that is a descriptor.",
    .m_methods = timer_functions,
    .m_slots = timer_slots,
};

PyMODINIT_FUNC PyInit__timer(void)
{
    return PyModuleDef_Init(&timer_module);
}
