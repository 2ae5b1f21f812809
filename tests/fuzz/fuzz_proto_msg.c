/* The wire: whatever decodes can be encoded, and says the same when it is decoded again. */
#include "proto/msg.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    struct msg first, second;
    struct err e = {0};
    if (msg_decode(&first, data, size, &e) != ERR_OK) {
        assert(e.msg[0] && first.type == 0);
        return 0;
    }
    struct buf once = BUF_INIT(2 * MSG_BYTES_MAX), twice = BUF_INIT(2 * MSG_BYTES_MAX);
    assert(msg_encode(first.type, &first.body, &once, NULL) == ERR_OK);
    assert(msg_decode(&second, once.data, once.len, NULL) == ERR_OK);
    assert(msg_encode(second.type, &second.body, &twice, NULL) == ERR_OK);
    assert(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    msg_release(&first);
    msg_release(&second);
    buf_release(&once);
    buf_release(&twice);
    return 0;
}
