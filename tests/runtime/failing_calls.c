// Preloaded by tests: the n-th call of a function of the C library fails, as when the system has no more
// memory, descriptors or threads.

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static const char* armed = NULL;       // the name of the function
static atomic_int left;                // calls until the one that fails
static _Thread_local int is_here = 0;  // whether this thread has armed it
static int everywhere = 0;             // whether calls of other threads count, too

// Let the n-th call of `name` fail, or with NULL none, of this thread or of all; return how many were left
// before: 0 or less where one has failed.
//
// Where the first memory of a new thread fails, Python's Thread.start waits for ever: let only calls of
// this thread fail then.
int fail_call(const char* name, int n, int of_all_threads) {
  int before = atomic_exchange(&left, n);
  armed = name;
  everywhere = of_all_threads;
  is_here = name != NULL;
  return before;
}

static int fails(const char* name) {
  const char* wanted = armed;
  if (wanted == NULL || !(everywhere || is_here) || strcmp(wanted, name) != 0) return 0;
  return atomic_fetch_sub(&left, 1) == 1;
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

// All that open files are called `open`; they take a mode where they make one.
#define FAILING_OPEN(name, parameters, arguments)                             \
  int name parameters {                                                       \
    if (fails("open")) {                                                      \
      errno = EMFILE;                                                         \
      return -1;                                                              \
    }                                                                         \
    va_list rest;                                                             \
    va_start(rest, flags);                                                    \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                             \
    return REAL(name) arguments;                                              \
  }

FAILING_OPEN(open64, (const char* path, int flags, ...), (path, flags, mode))
FAILING_OPEN(open, (const char* path, int flags, ...), (path, flags, mode))
FAILING_OPEN(openat64, (int at, const char* path, int flags, ...), (at, path, flags, mode))
FAILING_OPEN(openat, (int at, const char* path, int flags, ...), (at, path, flags, mode))
FAILING(DIR*, opendir, EMFILE, NULL, (const char* path), (path))
FAILING(ssize_t, read, EIO, -1, (int fd, void* to, size_t size), (fd, to, size))
FAILING(ssize_t, pread64, EIO, -1, (int fd, void* to, size_t size, off64_t at), (fd, to, size, at))
FAILING(ssize_t, write, ENOSPC, -1, (int fd, const void* from, size_t size), (fd, from, size))
FAILING(int, fsync, EIO, -1, (int fd), (fd))
FAILING(int, memfd_create, EMFILE, -1, (const char* name, unsigned flags), (name, flags))
FAILING(int, posix_fallocate64, ENOSPC, ENOSPC, (int fd, off64_t at, off64_t size), (fd, at, size))
FAILING(void*, mmap64, ENOMEM, MAP_FAILED,
        (void* at, size_t size, int prot, int flags, int fd, off64_t offset),
        (at, size, prot, flags, fd, offset))
FAILING(int, pthread_create, EAGAIN, EAGAIN,
        (pthread_t* thread, const pthread_attr_t* how, void* (*start)(void*), void* with),
        (thread, how, start, with))
FAILING(void*, dlopen, ENOMEM, NULL, (const char* path, int flags), (path, flags))
FAILING(int, mkdir, ENOSPC, -1, (const char* path, mode_t mode), (path, mode))
FAILING(int, symlink, ENOSPC, -1, (const char* to, const char* path), (to, path))
FAILING(int, rename, ENOSPC, -1, (const char* from, const char* to), (from, to))
FAILING(int, unlink, EIO, -1, (const char* path), (path))
FAILING(int, chmod, EPERM, -1, (const char* path, mode_t mode), (path, mode))
FAILING(int, flock, ENOLCK, -1, (int fd, int how), (fd, how))
FAILING(pid_t, fork, EAGAIN, -1, (void), ())
FAILING(int, pipe2, EMFILE, -1, (int fds[2], int flags), (fds, flags))
FAILING(int, socketpair, EMFILE, -1, (int family, int type, int protocol, int fds[2]),
        (family, type, protocol, fds))
FAILING(int, socket, EMFILE, -1, (int family, int type, int protocol), (family, type, protocol))
FAILING(int, bind, EADDRINUSE, -1, (int fd, const struct sockaddr* to, socklen_t size), (fd, to, size))
FAILING(int, accept4, EMFILE, -1, (int fd, struct sockaddr* from, socklen_t* size, int flags),
        (fd, from, size, flags))
FAILING(int, epoll_create1, EMFILE, -1, (int flags), (flags))
FAILING(int, eventfd, EMFILE, -1, (unsigned start, int flags), (start, flags))

// The child of vfork would run in the caller's frame, which a function around it has left.
pid_t vfork(void) {
  return fork();
}

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
