/* Numbers as they lie on the wire, whatever the processor; <endian.h> is not everywhere. */

#ifndef MPSR_BYTEORDER_H
#define MPSR_BYTEORDER_H

#include <stdint.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LITTLE32(number) ((uint32_t)(number))
#define LITTLE64(number) ((uint64_t)(number))
#define BIG32(number) __builtin_bswap32(number)
#elif __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LITTLE32(number) __builtin_bswap32(number)
#define LITTLE64(number) __builtin_bswap64(number)
#define BIG32(number) ((uint32_t)(number))
#else
#error "the order of bytes is not known; without this file mpsr works on Python alone"
#endif

#endif
