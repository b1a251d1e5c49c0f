/* Make and arm a timer that is a descriptor; see timerfd_create(2). */

#include "speedups.h"

#ifdef __linux__

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
    if (!PyArg_ParseTuple(arguments, "id:arm_timer", &descriptor, &when)) return NULL;
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

#define SEE "mpsr.system.timer"

static PyMethodDef timer_functions[] = {
    {"make_timer", timer_make, METH_NOARGS, SIGNATURE("make_timer()")},
    {"arm_timer", timer_arm, METH_VARARGS, SIGNATURE("arm_timer(descriptor, when, /)")},
    {NULL, NULL, 0, NULL},
};

int add_timer(PyObject *module)
{
    return PyModule_AddFunctions(module, timer_functions);
}

#else

int add_timer(PyObject *Py_UNUSED(module))
{
    return 0;  /* it takes timerfd_create(2), which Linux alone has */
}

#endif
