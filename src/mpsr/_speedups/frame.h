/* The layout of a BATCH frame, and how its head is written. On the wire numbers are little-endian. */

#ifndef MPSR_FRAME_H
#define MPSR_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "byteorder.h"

/* What stands before the offsets of a batch. */
typedef struct {
    uint32_t length;  /* of what follows the first eight bytes */
    uint8_t type;
    uint8_t flags;
    uint16_t zero;
} FrameHeader;

typedef struct {
    uint64_t first_seq;
    uint32_t count;
    uint32_t zero;
} BatchHead;

enum {
    FRAME_HEADER = sizeof(FrameHeader),
    BATCH_HEAD = sizeof(BatchHead),
    OFFSET = sizeof(uint32_t),
    BATCH = 3,         /* the frame type */
    MESSAGE_COST = 8,  /* bytes that a producer's buffer counts for a message beside its own */
};

/* What every sequence number, and the number after the last message, is at most: outputs have
 * signed integers.
 */
#define MAX_SEQ ((uint64_t)INT64_MAX)

_Static_assert(FRAME_HEADER == 8 && BATCH_HEAD == 16, "the structures have no gaps");

static inline void put_offset(char *at, uint32_t offset)
{
    offset = LITTLE32(offset);
    memcpy(at, &offset, sizeof offset);
}

/* Write what stands before the offset of the first message, and that; return where it is. */
static inline char *put_head(char *at, size_t length, uint64_t first_seq, size_t count)
{
    FrameHeader header = {.length = LITTLE32((uint32_t)length), .type = BATCH};
    BatchHead head = {.first_seq = LITTLE64(first_seq), .count = LITTLE32((uint32_t)count)};
    memcpy(at, &header, sizeof header);
    memcpy(at + FRAME_HEADER, &head, sizeof head);
    put_offset(at + FRAME_HEADER + BATCH_HEAD, 0);
    return at + FRAME_HEADER + BATCH_HEAD;
}

#endif
