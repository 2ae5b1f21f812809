/* An SQLite VFS over the usual one that fails writes on command: as a full disk, a broken one, a read-only one. */
#ifndef RUNG_TESTS_ROUTER_FAULT_VFS_H
#define RUNG_TESTS_ROUTER_FAULT_VFS_H

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct fault_plan {
    atomic_int countdown; /* writes, syncs and truncations that still succeed; < 0: all of them do */
    atomic_int failures;  /* how many fail after that, then all is well again */
    atomic_int code;      /* with this code */
    atomic_int failed;    /* how many did */
};
static struct fault_plan fault = {-1, 0, SQLITE_FULL, 0};

static inline void fault_set(int countdown, int failures, int code)
{
    atomic_store(&fault.failed, 0);
    atomic_store(&fault.failures, failures);
    atomic_store(&fault.code, code);
    atomic_store(&fault.countdown, countdown);
}

static inline int fault_now(void)
{
    if (atomic_load(&fault.countdown) < 0) return SQLITE_OK;
    if (atomic_load(&fault.countdown) > 0) {
        atomic_fetch_sub(&fault.countdown, 1);
        return SQLITE_OK;
    }
    atomic_fetch_add(&fault.failed, 1);
    if (atomic_fetch_sub(&fault.failures, 1) <= 1) atomic_store(&fault.countdown, -1);
    return atomic_load(&fault.code);
}

struct fault_file {
    sqlite3_file base;
    sqlite3_file *real;
};
#define REAL(file) (((struct fault_file *)(file))->real)

static int fault_close(sqlite3_file *f)
{
    int rc = REAL(f)->pMethods ? REAL(f)->pMethods->xClose(REAL(f)) : SQLITE_OK;
    free(REAL(f));
    return rc;
}
static int fault_read(sqlite3_file *f, void *out, int n, sqlite3_int64 at)
{
    return REAL(f)->pMethods->xRead(REAL(f), out, n, at);
}
static int fault_write(sqlite3_file *f, const void *data, int n, sqlite3_int64 at)
{
    int rc = fault_now();
    if (rc == SQLITE_OK) return REAL(f)->pMethods->xWrite(REAL(f), data, n, at);
    if (rc == SQLITE_FULL && n > 1) (void)REAL(f)->pMethods->xWrite(REAL(f), data, n / 2, at); /* a torn one */
    return rc;
}
static int fault_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    int rc = fault_now();
    return rc == SQLITE_OK ? REAL(f)->pMethods->xTruncate(REAL(f), size) : rc;
}
static int fault_sync(sqlite3_file *f, int flags)
{
    int rc = fault_now();
    return rc == SQLITE_OK ? REAL(f)->pMethods->xSync(REAL(f), flags) : rc;
}
static int fault_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return REAL(f)->pMethods->xFileSize(REAL(f), size);
}
static int fault_lock(sqlite3_file *f, int level)
{
    return REAL(f)->pMethods->xLock(REAL(f), level);
}
static int fault_unlock(sqlite3_file *f, int level)
{
    return REAL(f)->pMethods->xUnlock(REAL(f), level);
}
static int fault_reserved(sqlite3_file *f, int *out)
{
    return REAL(f)->pMethods->xCheckReservedLock(REAL(f), out);
}
static int fault_control(sqlite3_file *f, int op, void *arg)
{
    return REAL(f)->pMethods->xFileControl(REAL(f), op, arg);
}
static int fault_sector(sqlite3_file *f)
{
    return REAL(f)->pMethods->xSectorSize(REAL(f));
}
static int fault_device(sqlite3_file *f)
{
    return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f));
}
static int fault_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **out)
{
    return REAL(f)->pMethods->xShmMap(REAL(f), page, size, extend, out);
}
static int fault_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    return REAL(f)->pMethods->xShmLock(REAL(f), offset, n, flags);
}
static void fault_shm_barrier(sqlite3_file *f)
{
    REAL(f)->pMethods->xShmBarrier(REAL(f));
}
static int fault_shm_unmap(sqlite3_file *f, int delete)
{
    return REAL(f)->pMethods->xShmUnmap(REAL(f), delete);
}

static const sqlite3_io_methods FAULT_METHODS = {
    2, fault_close, fault_read, fault_write, fault_truncate, fault_sync, fault_size, fault_lock, fault_unlock,
    fault_reserved, fault_control, fault_sector, fault_device, fault_shm_map, fault_shm_lock, fault_shm_barrier,
    fault_shm_unmap, NULL, NULL,
};

static int fault_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out_flags)
{
    sqlite3_vfs *below = vfs->pAppData;
    struct fault_file *file = (struct fault_file *)f;
    file->base.pMethods = NULL;
    file->real = calloc(1, (size_t)below->szOsFile);
    if (!file->real) return SQLITE_NOMEM;
    int rc = below->xOpen(below, name, file->real, flags, out_flags);
    if (rc == SQLITE_OK) file->base.pMethods = &FAULT_METHODS;
    else free(file->real);
    return rc;
}

/* From here on every new connection goes through it. */
static inline void fault_vfs_install(void)
{
    static sqlite3_vfs vfs;
    sqlite3_vfs *below = sqlite3_vfs_find(NULL);
    vfs = *below;
    vfs.zName = "fault";
    vfs.szOsFile = (int)sizeof(struct fault_file);
    vfs.pAppData = below;
    vfs.pNext = NULL;
    vfs.xOpen = fault_open;
    (void)sqlite3_vfs_register(&vfs, 1);
}

#endif
