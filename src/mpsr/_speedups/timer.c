/* Make and arm a timer that is a descriptor; see timerfd_create(2). */

#include "speedups.h"

#ifdef __linux__

#include <errno.h>
#include <math.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { SECOND = 1000000000 };  /* ns */

static struct timespec interval_of(unsigned long long mark)
{
    return (struct timespec){.tv_sec = (time_t)(mark / SECOND), .tv_nsec = (long)(mark % SECOND)};
}

/* The interval proves whose timer it is: it is random, and so long that it never counts. */
static int has_mark(int descriptor, unsigned long long mark)
{
    struct itimerspec found;
    struct timespec interval = interval_of(mark);
    return timerfd_gettime(descriptor, &found) == 0
           && found.it_interval.tv_sec == interval.tv_sec
           && found.it_interval.tv_nsec == interval.tv_nsec;
}

static PyObject *timer_make(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    unsigned long long mark;
    if (!PyArg_ParseTuple(arguments, "K:make_timer", &mark)) return NULL;
    int descriptor = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (descriptor < 0) return PyErr_SetFromErrno(PyExc_OSError);
    struct itimerspec time = {.it_interval = interval_of(mark)};
    if (timerfd_settime(descriptor, 0, &time, NULL) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        close(descriptor);
        return NULL;
    }
    return PyLong_FromLong(descriptor);
}

static PyObject *timer_is(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    int descriptor;
    unsigned long long mark;
    if (!PyArg_ParseTuple(arguments, "iK:is_timer", &descriptor, &mark)) return NULL;
    return PyBool_FromLong(has_mark(descriptor, mark));
}

static PyObject *timer_arm(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    int descriptor;
    unsigned long long mark;
    double when;
    if (!PyArg_ParseTuple(arguments, "iKd:arm_timer", &descriptor, &mark, &when)) return NULL;
    if (!(when >= 0 && when < 1e18)) {
        PyErr_SetString(PyExc_ValueError, "no time on the monotonic clock");
        return NULL;
    }
    double seconds = floor(when);
    if (!has_mark(descriptor, mark)) {
        errno = EBADF;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    struct itimerspec time = {
        .it_interval = interval_of(mark),
        .it_value = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((when - seconds) * 1e9)},
    };
    if (timerfd_settime(descriptor, TFD_TIMER_ABSTIME, &time, NULL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

/* -- the module ------------------------------------------------------------------------- */

#define SEE "mpsr.system.timer"

static PyMethodDef timer_functions[] = {
    {"make_timer", timer_make, METH_VARARGS, SIGNATURE("make_timer(mark, /)")},
    {"is_timer", timer_is, METH_VARARGS, SIGNATURE("is_timer(descriptor, mark, /)")},
    {"arm_timer", timer_arm, METH_VARARGS, SIGNATURE("arm_timer(descriptor, mark, when, /)")},
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
