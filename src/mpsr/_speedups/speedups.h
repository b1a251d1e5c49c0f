/* What the parts of the extension share. Each adds its types and functions to the one module. */

#ifndef MPSR_SPEEDUPS_H
#define MPSR_SPEEDUPS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* A docstring from which inspect.signature() can read; each part defines SEE. */
#define SIGNATURE(text) text "\n--\n\nSee " SEE "."

/* Make a heap type of a specification, and add it to the module. */
static inline int add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL) return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

int add_codec(PyObject *module);
int add_direct(PyObject *module);
int add_packets(PyObject *module);
int add_ring(PyObject *module);
int add_sigmask(PyObject *module);
int add_timer(PyObject *module);

#endif
