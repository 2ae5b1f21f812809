#include "tests/cuda/emulate/emulate.h"

#include <map>
#include <sys/mman.h>
#include <vector>

#include "tests/cuda/emulate/engine/cuda/matmul_wgmma.cuh"
#include "tests/cuda/emulate/engine/cuda/ptx.cuh"

struct emulate_index threadIdx, blockIdx, blockDim, gridDim;
/* Static, as __shared__ variables are: an address in shared memory fits 31 bits, counted from here. */
alignas(1024) static uint8_t arena[64 << 20];
uint8_t *emulate_arena = arena;

enum { FIBERS = 8192, STACK_BYTES = 64 << 10, ARENA_BYTES = sizeof arena, STUCK = 100000000 /* switches with nothing achieved */ };

static struct fiber {
    void *stack;
    bool done;
    unsigned thread, block;
} fibers[FIBERS];
static struct warp {
    char given[2][32][32];
    int count;
    unsigned turn;
} warps[FIBERS / 32];
struct meeting {
    int count;
    unsigned turn;
};
static std::map<int, struct meeting> meetings; /* by block and barrier */
struct barrier {
    int count, pending;
    int64_t bytes;
    unsigned phase;
};
static std::map<uint32_t, struct barrier> barriers; /* by address */
/* What the emulated driver writes into a map of a tensor: a matrix of bytes. */
struct tensor {
    const uint8_t *data;
    int64_t k, rows, apart;
    uint32_t box_k, box_rows;
    int element; /* bytes, in which k's are counted */
    bool swizzled;
};
struct copy {
    uint32_t to, bytes, bar;
    const void *from; /* NULL: a box of the tensor */
    struct tensor tensor;
    int k, row;
};
/* A fiber's warpgroup products, that run when it waits for them. */
static std::map<int, std::vector<std::vector<std::function<void()>>>> products;
static std::vector<struct copy> copies;
static std::vector<int> order;
static char *stacks;
static void *outside;
static const std::function<void()> *body;
static size_t shared_bytes;
static int now, at, alive;
static bool alone; /* one block at a time */
static int64_t idle;
static uint64_t state = 88172645463325252u;

static unsigned random_number(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 32);
}

static void fail(const char *why)
{
    fprintf(stderr, "emulation: %s (thread %u of block %u)\n", why, threadIdx.x, blockIdx.x);
    abort();
}

/* ---- fibers ---- */

extern "C" void emulate_switch(void **from, void *to);
#if defined(__x86_64__)
__asm__(".globl emulate_switch\n"
        "emulate_switch:\n"
        "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, (%rdi)\n"
        "mov %rsi, %rsp\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "ret\n");
#else
#error "fibers are written for x86-64"
#endif

static void end_phase(struct barrier *b)
{
    if (b->pending != 0 || b->bytes != 0) return;
    b->phase ^= 1;
    b->pending = b->count;
    idle = 0;
}

/* Rows behind each other; where they are swizzled, of 128 bytes at multiples of 128, their 16-byte chunks are XORed with the address's
 * bits 7 to 9. Zeros beyond the edges. */
static void deliver_box(const struct copy *c)
{
    const struct tensor *t = &c->tensor;
    for (uint32_t i = 0; i < t->box_rows * t->box_k; i++) {
        int64_t row = c->row + (int64_t)(i / t->box_k), k = c->k + (int64_t)(i % t->box_k);
        uint32_t to = c->to + i;
        bool inside = row >= 0 && row < t->rows && k >= 0 && k < t->k;
        emulate_arena[t->swizzled ? to ^ (to >> 7 & 7) << 4 : to] = inside ? t->data[row * t->apart + k] : 0;
    }
}

/* Some of the copies under way arrive. */
static void deliver(void)
{
    for (size_t i = 0; i < copies.size();) {
        if (random_number() % 3) {
            i++;
            continue;
        }
        struct copy c = copies[i];
        copies.erase(copies.begin() + (ptrdiff_t)i);
        if (c.from) memcpy(emulate_arena + c.to, c.from, c.bytes);
        else deliver_box(&c);
        struct barrier *b = &barriers.at(c.bar);
        b->bytes -= c.bytes;
        end_phase(b);
    }
}

static int next_fiber(void)
{
    do {
        if (++at < (int)order.size()) continue;
        at = 0;
        for (int i = 0; i < 64; i++) std::swap(order[random_number() % order.size()], order[random_number() % order.size()]);
        deliver();
    } while (fibers[order[(size_t)at]].done);
    return order[(size_t)at];
}

static void be(int fiber)
{
    now = fiber;
    threadIdx.x = fibers[fiber].thread;
    unsigned block = fibers[fiber].block;
    blockIdx = {block % gridDim.x, block / gridDim.x % gridDim.y, block / gridDim.x / gridDim.y};
}

void emulate_yield(void)
{
    int me = now, to = next_fiber();
    if (++idle > STUCK) fail("nothing moves any more");
    if (to == me) return;
    be(to);
    emulate_switch(&fibers[me].stack, fibers[to].stack);
    be(me);
}

static void enter(void)
{
    void *unused;
    (*body)();
    fibers[now].done = true;
    idle = 0;
    if (--alive == 0) emulate_switch(&unused, outside);
    be(next_fiber());
    emulate_switch(&unused, fibers[now].stack);
}

static void run_blocks(unsigned first, unsigned blocks)
{
    size_t count = (size_t)blocks * blockDim.x;
    if (count > FIBERS || blockDim.x % 32 != 0 || shared_bytes * blocks > ARENA_BYTES) fail("too many threads or bytes");
    order.resize(count);
    alive = (int)count;
    idle = 0;
    memset(warps, 0, sizeof warps);
    memset(emulate_arena, 0xff, shared_bytes * blocks);
    meetings.clear();
    barriers.clear();
    products.clear();
    for (size_t i = 0; i < count; i++) {
        void **top = (void **)(stacks + (i + 1) * STACK_BYTES - 64);
        *--top = NULL;
        *--top = (void *)enter;
        for (int r = 0; r < 6; r++) *--top = NULL;
        fibers[i] = {top, false, (unsigned)(i % blockDim.x), first + (unsigned)(i / blockDim.x)};
        order[i] = (int)i;
    }
    for (size_t i = count - 1; i > 0; i--) std::swap(order[i], order[random_number() % (i + 1)]);
    at = 0;
    be(order[0]);
    emulate_switch(&outside, fibers[now].stack);
    if (!copies.empty()) fail("copies are still under way");
    for (auto &p : products)
        if (!p.second.empty()) fail("a warpgroup's products that nobody waited for");
}

void emulate_run(dim3 grid, unsigned threads, size_t shared, bool together, const std::function<void()> &kernel)
{
    if (!stacks) {
        const char *seed = getenv("RUNG_EMULATE_SEED");
        if (seed) state ^= strtoull(seed, NULL, 10) * 0x9e3779b97f4a7c15u;
        stacks = (char *)mmap(NULL, (size_t)FIBERS * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stacks == MAP_FAILED) fail("no memory");
    }
    unsigned blocks = grid.x * grid.y * grid.z;
    gridDim = {grid.x, grid.y, grid.z}, blockDim = {threads, 1, 1};
    body = &kernel;
    shared_bytes = (shared + 1023) / 1024 * 1024;
    alone = !together;
    if (together) run_blocks(0, blocks);
    else
        for (unsigned b = 0; b < blocks; b++) run_blocks(b, 1);
}

uint8_t *emulate_shared(void)
{
    return emulate_arena + (alone ? 0 : fibers[now].block * shared_bytes);
}

/* ---- where threads meet ---- */

void emulate_barrier(int id, int threads)
{
    struct meeting *m = &meetings[(int)fibers[now].block * 16 + id];
    unsigned turn = m->turn;
    if (++m->count == threads) {
        m->count = 0;
        m->turn++;
        idle = 0;
    } else
        while (m->turn == turn) emulate_yield();
}

void emulate_exchange(const void *in, int bytes, void *out)
{
    struct warp *w = &warps[now / 32];
    unsigned turn = w->turn;
    if (bytes > 32) fail("an exchange of more than 32 bytes");
    memcpy(w->given[turn & 1][now % 32], in, (size_t)bytes);
    if (++w->count == 32) {
        w->count = 0;
        w->turn++;
        idle = 0;
    } else
        while (w->turn == turn) emulate_yield();
    for (int i = 0; i < 32; i++) memcpy((char *)out + i * bytes, w->given[turn & 1][i], (size_t)bytes);
}

void mbarrier_init(uint32_t bar, int count)
{
    barriers[bar] = {count, count, 0, 0};
}

void mbarrier_arrive(uint32_t bar)
{
    struct barrier *b = &barriers.at(bar);
    if (b->pending <= 0) fail("more arrivals than a barrier expects");
    b->pending--;
    end_phase(b);
}

void mbarrier_expect(uint32_t bar, uint32_t bytes)
{
    barriers.at(bar).bytes += bytes;
    mbarrier_arrive(bar);
}

void mbarrier_wait(uint32_t bar, uint32_t parity)
{
    while ((barriers.at(bar).phase & 1) == parity) emulate_yield();
}

void bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint32_t bar, uint64_t)
{
    if (to % 16 != 0 || (uintptr_t)from % 16 != 0 || bytes % 16 != 0 || bytes == 0) fail("a bulk copy that is not of 16 bytes");
    copies.push_back({to, bytes, bar, from, {}, 0, 0});
}

/* ---- copies of tensors ---- */

void tensor_copy(uint32_t to, const CUtensorMap *map, int k, int row, uint32_t bar)
{
    struct copy c = {to, 0, bar, NULL, {}, k, row};
    memcpy(&c.tensor, map, sizeof c.tensor);
    c.k *= c.tensor.element;
    c.bytes = c.tensor.box_k * c.tensor.box_rows;
    if (to % 128 != 0) fail("a tensor's copy to no multiple of 128 bytes");
    copies.push_back(c);
}

static CUresult encode_tiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *data, const cuuint64_t *sizes, const cuuint64_t *apart,
                             const cuuint32_t *box, const cuuint32_t *steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                             CUtensorMapFloatOOBfill)
{
    int element = type == CU_TENSOR_MAP_DATA_TYPE_UINT32 ? 4 : type == CU_TENSOR_MAP_DATA_TYPE_UINT16 ? 2 : 1;
    bool swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B, known = element > 1 || type == CU_TENSOR_MAP_DATA_TYPE_UINT8;
    bool right = known && rank == 2 && (swizzled ? box[0] * (unsigned)element == 128 : swizzle == CU_TENSOR_MAP_SWIZZLE_NONE && box[0] <= 256) &&
                 box[0] * (unsigned)element % 16 == 0 && box[1] <= 256 && steps[0] == 1 && steps[1] == 1 && (uintptr_t)data % 16 == 0 &&
                 apart[0] % 16 == 0 && sizes[0] && sizes[1] && (uintptr_t)map % 64 == 0;
    if (!right) return CUDA_ERROR_INVALID_VALUE;
    struct tensor t = {(const uint8_t *)data, (int64_t)sizes[0] * element, (int64_t)sizes[1], (int64_t)apart[0], box[0] * (unsigned)element, box[1],
                       element, swizzled};
    static_assert(sizeof t <= sizeof *map, "no room in a map");
    memcpy(map, &t, sizeof t);
    return CUDA_SUCCESS;
}

/* ---- products of warpgroups ---- */

void emulate_product(const std::function<void()> &product)
{
    auto &groups = products[now];
    if (groups.empty()) groups.push_back({}); /* the last one is not committed yet */
    groups.back().push_back(product);
}

void wgmma_commit(void)
{
    auto &groups = products[now];
    if (groups.empty()) groups.push_back({});
    groups.push_back({});
}

void emulate_products_wait(int pending)
{
    auto &groups = products[now];
    while ((int)groups.size() - 1 > pending) {
        for (auto &product : groups.front()) product();
        groups.erase(groups.begin());
    }
    if (groups.size() == 1 && groups[0].empty()) groups.clear();
}

/* ---- the host's side: a card with a few multiprocessors, whose memory is the host's ---- */

extern "C" {

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    *p = aligned_alloc(256, (bytes + 511) / 256 * 256);
    if (!*p) return cudaErrorMemoryAllocation;
    memset(*p, 0xff, bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind)
{
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    memset(to, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t)
{
    return "an emulated error";
}

const char *cudaGetErrorName(cudaError_t)
{
    return "emulated";
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr what, int)
{
    const char *blocks = getenv("RUNG_EMULATE_MULTIPROCESSORS");
    *value = what == cudaDevAttrMultiProcessorCount ? (blocks ? atoi(blocks) : 4) : what == cudaDevAttrComputeCapabilityMajor ? 9 :
             what == cudaDevAttrComputeCapabilityMinor ? 0 : what == cudaDevAttrCooperativeLaunch ? 1 : 232448;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *, enum cudaFuncAttribute, int)
{
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *of, const void *)
{
    memset(of, 0, sizeof *of);
    of->numRegs = 128;
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned, unsigned long long, enum cudaDriverEntryPointQueryResult *result)
{
    *found = strcmp(name, "cuTensorMapEncodeTiled") == 0 ? (void *)encode_tiled : NULL;
    *result = *found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPoint(const char *name, void **found, unsigned long long flags, enum cudaDriverEntryPointQueryResult *result)
{
    return cudaGetDriverEntryPointByVersion(name, found, 0, flags, result);
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *, dim3, dim3, void **, size_t, cudaStream_t)
{
    return cudaErrorNotSupported; /* by LAUNCH alone */
}
}
