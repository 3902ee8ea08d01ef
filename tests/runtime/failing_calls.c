// Preloaded by tests: the n-th call that the calling thread makes of a function of the C library fails,
// as when the system has no more memory, descriptors or threads.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

// The name of the function. Calls of other threads succeed: where the first memory of a new thread
// fails, Python's Thread.start waits for ever.
static _Thread_local const char* armed = NULL;
static atomic_int left;  // calls until the one that fails

// Let the n-th call of `name` fail, or with NULL none; return how many were left before: 0 or less where
// one has failed.
int fail_call(const char* name, int n) {
  armed = name;
  return atomic_exchange(&left, n);
}

static int fails(const char* name) {
  return armed != NULL && strcmp(armed, name) == 0 && atomic_fetch_sub(&left, 1) == 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define FAILING(type, name, error, failure, parameters, arguments) \
  type name parameters {                                           \
    if (fails(#name)) {                                            \
      errno = error;                                               \
      return failure;                                              \
    }                                                              \
    return REAL(name) arguments;                                   \
  }


FAILING(ssize_t, pread64, EIO, -1, (int fd, void* to, size_t size, off64_t at), (fd, to, size, at))
FAILING(ssize_t, write, ENOSPC, -1, (int fd, const void* from, size_t size), (fd, from, size))
FAILING(int, memfd_create, EMFILE, -1, (const char* name, unsigned flags), (name, flags))
FAILING(void*, mmap64, ENOMEM, MAP_FAILED,
        (void* at, size_t size, int prot, int flags, int fd, off64_t offset),
        (at, size, prot, flags, fd, offset))
FAILING(int, pthread_create, EAGAIN, EAGAIN,
        (pthread_t* thread, const pthread_attr_t* how, void* (*start)(void*), void* with),
        (thread, how, start, with))
FAILING(void*, dlopen, ENOMEM, NULL, (const char* path, int flags), (path, flags))
FAILING(int, mkdir, ENOSPC, -1, (const char* path, mode_t mode), (path, mode))
FAILING(int, symlink, ENOSPC, -1, (const char* to, const char* path), (to, path))

// All memory of the heap counts as one function. The names of glibc are called directly: dlsym takes
// memory itself.
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

#define FAILING_MEMORY(name, real, parameters, arguments) \
  void* name parameters {                                 \
    if (fails("malloc")) {                                \
      errno = ENOMEM;                                     \
      return NULL;                                        \
    }                                                     \
    return real arguments;                                \
  }

FAILING_MEMORY(malloc, __libc_malloc, (size_t size), (size))
FAILING_MEMORY(calloc, __libc_calloc, (size_t count, size_t size), (count, size))
FAILING_MEMORY(realloc, __libc_realloc, (void* old, size_t size), (old, size))
FAILING_MEMORY(aligned_alloc, __libc_memalign, (size_t alignment, size_t size), (alignment, size))
