/* The extension module: one table, filled by its parts. */

#include "speedups.h"

static int add_parts(PyObject *module)
{
    if (add_codec(module) < 0 || add_direct(module) < 0) return -1;
    if (add_packets(module) < 0 || add_ring(module) < 0 || add_sigmask(module) < 0) return -1;
    return add_timer(module);
}

/* No state is shared between interpreters, so each may have a lock of its own. But each call
 * relies on that lock, so a free-threaded build has to turn it on.
 */
static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_parts},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mpsr._speedups._c",
    .m_doc = "The parts of mpsr that are written in C.",
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__c(void)
{
    return PyModuleDef_Init(&definition);
}
