/* Counts the file operations of one process on one folder and what is in it, and lets the n-th of them fail or kill the process.

   Built and armed by fault_shim.py: LD_PRELOAD puts these functions before those of libc, and they do nothing until
   fault_arm() is called. Operations of other processes (forks too) and on files elsewhere are passed on uncounted.
   Changing operations ('w': what creates, writes, syncs, renames or deletes) and reading ones ('r') have a count each.
   Not seen: calls inside libc (fopen's writes), memory maps, io_uring. fault_files.py checks that every file
   that a command leaves was seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ONCE, FULL, ALL, SHORT, KILL, PART };        /* what happens at operation n, and afterwards */
enum { READS = 'r', TAKES = 'w', FREES = 'd' };     /* kinds; TAKES may need space, FREES does not; both count as 'w' */
static const int CUT = -1;                          /* instead of an errno: write a half */

static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1, number, mode;
static char counted;
static long target;
static pid_t armed;
static atomic_long changes, reads;

#define NEXT(name) ({ static __typeof__(&name) next; if (!next) next = dlsym(RTLD_NEXT, #name); next; })

void fault_arm(const char *folder, int log, char what, long at, int error, int how) {
    snprintf(root, sizeof root, "%s/", folder);
    root_length = strlen(root);
    log_fd = log, counted = what, target = at, number = error, mode = how;
    changes = reads = 0;
    armed = getpid();
}

long fault_count(char what) { return what == 'w' ? changes : reads; }

/* The absolute path of a name at a descriptor, or of the descriptor itself if there is no name. */
static int place(int directory, const char *name, char *into) {
    char link[64];
    ssize_t length = 0;
    if (name && name[0] == '/') return snprintf(into, PATH_MAX, "%s", name) < PATH_MAX;
    snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
    length = syscall(SYS_readlinkat, AT_FDCWD, link, into, (size_t)PATH_MAX - 1);
    if (length < 0) return 0;
    into[length] = 0;
    if (name) length += snprintf(into + length, PATH_MAX - length, "/%s", name);
    return length < PATH_MAX;
}

/* Count an operation; return 0 to let it happen, CUT to write a half, or the errno that it fails with. */
static int fault(char kind, const char *operation, int directory, const char *name) {
    char path[PATH_MAX + 2], line[PATH_MAX + 64];
    int before = errno, found = 0;
    if (!armed || getpid() != armed) return 0;
    if (!place(directory, name, path)) { errno = before; return 0; }
    if (!strncmp(path, root, root_length - 1) && !path[root_length - 1]) strcpy(path + root_length - 1, "/.");
    if (strncmp(path, root, root_length)) { errno = before; return 0; }
    char what = kind == READS ? 'r' : 'w';
    long n = atomic_fetch_add(what == 'w' ? &changes : &reads, 1) + 1;
    if (log_fd >= 0) {
        int size = snprintf(line, sizeof line, "%c\t%ld\t%s\t%s\n", what, n, operation, path + root_length);
        syscall(SYS_write, log_fd, line, (size_t)size);
    }
    if (what == counted && target && n == target) {
        if (mode == KILL) syscall(SYS_kill, armed, SIGKILL);
        found = (mode == SHORT || mode == PART) && !strcmp(operation, "write") ? CUT : number;
    } else if (target && what == counted && n > target) {
        if (mode == ALL || ((mode == FULL || mode == SHORT) && kind == TAKES)) found = number;
    }
    errno = before;
    return found;
}

#define TRY(kind, operation, directory, name) \
    do { int e = fault(kind, operation, directory, name); if (e) { errno = e == CUT ? number : e; return -1; } } while (0)

static char opening(int flags) {
    if (flags & O_CREAT) return TAKES;
    return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC ? FREES : READS;
}
static const char *opened(int flags) {
    return flags & O_CREAT ? "create" : opening(flags) == FREES ? "open-write" : "open";
}

#define OPEN_MODE(flags) \
    mode_t bits = 0; \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { va_list a; va_start(a, flags); bits = va_arg(a, mode_t); va_end(a); }
#define OPEN(name) int name(const char *path, int flags, ...) { \
    OPEN_MODE(flags) TRY(opening(flags), opened(flags), AT_FDCWD, path); return NEXT(name)(path, flags, bits); }
#define OPENAT(name) int name(int directory, const char *path, int flags, ...) { \
    OPEN_MODE(flags) TRY(opening(flags), opened(flags), directory, path); return NEXT(name)(directory, path, flags, bits); }
#define OPEN_2(name) int name(const char *path, int flags) { \
    TRY(opening(flags), opened(flags), AT_FDCWD, path); return NEXT(name)(path, flags); }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
int __open_2(const char *, int);
int __open64_2(const char *, int);
OPEN_2(__open_2)
OPEN_2(__open64_2)
int creat(const char *path, mode_t bits) { TRY(TAKES, "create", AT_FDCWD, path); return NEXT(creat)(path, bits); }

#define FOPEN(name) FILE *name(const char *path, const char *how) { \
    int e = fault(strpbrk(how, "wa+") ? TAKES : READS, strpbrk(how, "wa") ? "create" : "open", AT_FDCWD, path); \
    if (e) { errno = e == CUT ? number : e; return NULL; } return NEXT(name)(path, how); }
FOPEN(fopen)
FOPEN(fopen64)

#define WRITE(name, parameters, arguments, half) ssize_t name parameters { \
    int e = fault(TAKES, "write", fd, NULL); \
    if (e == CUT && size > 1) { size_t cut = size / 2; (void)cut; return half; } \
    if (e) { errno = e == CUT ? number : e; return -1; } \
    return NEXT(name) arguments; }
WRITE(write, (int fd, const void *data, size_t size), (fd, data, size), NEXT(write)(fd, data, cut))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), NEXT(pwrite)(fd, data, cut, at))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at),
      NEXT(pwrite64)(fd, data, cut, at))
WRITE(writev, (int fd, const struct iovec *parts, int size), (fd, parts, size), NEXT(writev)(fd, parts, (int)cut))
WRITE(sendfile, (int fd, int from, off_t *at, size_t size), (fd, from, at, size), NEXT(sendfile)(fd, from, at, cut))
WRITE(sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size),
      NEXT(sendfile64)(fd, from, at, cut))
WRITE(copy_file_range, (int from, off64_t *start, int fd, off64_t *at, size_t size, unsigned flags),
      (from, start, fd, at, size, flags), NEXT(copy_file_range)(from, start, fd, at, cut, flags))

#define READ(name, parameters, arguments) ssize_t name parameters { \
    TRY(READS, "read", fd, NULL); return NEXT(name) arguments; }
ssize_t __read_chk(int, void *, size_t, size_t);
READ(read, (int fd, void *data, size_t size), (fd, data, size))
READ(__read_chk, (int fd, void *data, size_t size, size_t room), (fd, data, size, room))
READ(pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
READ(pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
READ(readv, (int fd, const struct iovec *parts, int size), (fd, parts, size))

#define ONE(kind, operation, directory, path, name, parameters, arguments) int name parameters { \
    TRY(kind, operation, directory, path); return NEXT(name) arguments; }
ONE(FREES, "rename", AT_FDCWD, to, rename, (const char *from, const char *to), (from, to))
ONE(FREES, "rename", other, to, renameat, (int one, const char *from, int other, const char *to), (one, from, other, to))
ONE(FREES, "rename", other, to, renameat2, (int one, const char *from, int other, const char *to, unsigned flags),
    (one, from, other, to, flags))
ONE(TAKES, "link", AT_FDCWD, to, link, (const char *from, const char *to), (from, to))
ONE(TAKES, "link", other, to, linkat, (int one, const char *from, int other, const char *to, int flags),
    (one, from, other, to, flags))
ONE(TAKES, "symlink", AT_FDCWD, to, symlink, (const char *from, const char *to), (from, to))
ONE(TAKES, "symlink", other, to, symlinkat, (const char *from, int other, const char *to), (from, other, to))
ONE(TAKES, "mkdir", AT_FDCWD, path, mkdir, (const char *path, mode_t bits), (path, bits))
ONE(TAKES, "mkdir", directory, path, mkdirat, (int directory, const char *path, mode_t bits), (directory, path, bits))
ONE(FREES, "unlink", AT_FDCWD, path, unlink, (const char *path), (path))
ONE(FREES, "unlink", directory, path, unlinkat, (int directory, const char *path, int flags), (directory, path, flags))
ONE(FREES, "rmdir", AT_FDCWD, path, rmdir, (const char *path), (path))
ONE(FREES, "chmod", AT_FDCWD, path, chmod, (const char *path, mode_t bits), (path, bits))
ONE(FREES, "chmod", fd, NULL, fchmod, (int fd, mode_t bits), (fd, bits))
ONE(TAKES, "fsync", fd, NULL, fsync, (int fd), (fd))
ONE(TAKES, "fsync", fd, NULL, fdatasync, (int fd), (fd))
ONE(TAKES, "truncate", fd, NULL, ftruncate, (int fd, off_t size), (fd, size))
ONE(TAKES, "truncate", fd, NULL, ftruncate64, (int fd, off64_t size), (fd, size))
ONE(TAKES, "truncate", AT_FDCWD, path, truncate, (const char *path, off_t size), (path, size))
ONE(TAKES, "allocate", fd, NULL, fallocate, (int fd, int how, off_t at, off_t size), (fd, how, at, size))
