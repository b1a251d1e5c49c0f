/* Let a script write to a ring's control page before each access that the code under test makes.
 *
 * The build for fuzzing puts this file before ring_reader.c and ring.c.
 */

#ifndef MPSR_FUZZ_HOSTILE_H
#define MPSR_FUZZ_HOSTILE_H

#define _GNU_SOURCE 1  /* as Python.h would say later */
#include <stdatomic.h>

void mpsr_fuzz_peer_writes(void);

#undef atomic_load
#undef atomic_store
#undef atomic_exchange
#define atomic_load(word) (mpsr_fuzz_peer_writes(), atomic_load_explicit(word, memory_order_seq_cst))
#define atomic_store(word, value) \
    (mpsr_fuzz_peer_writes(), atomic_store_explicit(word, value, memory_order_seq_cst))
#define atomic_exchange(word, value) \
    (mpsr_fuzz_peer_writes(), atomic_exchange_explicit(word, value, memory_order_seq_cst))

#endif
