/* The script of a hostile peer: what it writes, before which access. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t at;     /* bytes from the beginning of the control page */
    uint64_t size;   /* bytes of the value; 0: nothing is written this time */
    uint64_t value;
} Write;

static char *control;
static const Write *next;
static size_t left;

void mpsr_fuzz_script(char *page, const Write *writes, size_t count)
{
    control = page;
    next = writes;
    left = count;
}

void mpsr_fuzz_peer_writes(void)
{
    if (left == 0) return;
    memcpy(control + next->at, &next->value, next->size);
    next++;
    left--;
}
