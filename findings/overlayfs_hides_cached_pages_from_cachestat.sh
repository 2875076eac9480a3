#!/usr/bin/env bash
# overlayfs: cachestat(2) says that nothing of a file is in memory, without an error. mincore(2) sees every page.
#
# The system call is described as a way to ask what of a file is cached. On overlayfs, which is what a container's root
# usually is, it looks at a mapping that is always empty, and answers zeros for a file that has just been read; a program
# that sends what is cached at once and reads the rest elsewhere takes every hot file for a cold one. Its other way,
# preadv2(2) with RWF_NOWAIT, ends with EOPNOTSUPP there, for hot and cold alike, which is not "would block" (EAGAIN).
#
# Needs root and python3 with ctypes; nothing is installed. Seen on Linux 6.18 (x86-64, whose system call number is 451).
set -euo pipefail
lacks() { echo "LACKS: $*"; exit 77; }
[ "$(id -u)" = 0 ] || lacks root
command -v python3 >/dev/null || lacks python3
folder=$(mktemp -d)
trap 'umount "$folder/merged" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder"/{lower,upper,work,merged}
head --bytes 1M /dev/urandom >"$folder/lower/file"
mount -t overlay overlay -o "lowerdir=$folder/lower,upperdir=$folder/upper,workdir=$folder/work" "$folder/merged" 2>/dev/null ||
    lacks "overlayfs on this file system"
uname -r
python3 - "$folder" <<'P'
import ctypes, errno, mmap, os, sys

PAGES, CACHESTAT = 256, 451
libc = ctypes.CDLL(None, use_errno=True)
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def cached(fd):
    span, answer = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    if libc.syscall(CACHESTAT, fd, span, answer, 0):
        sys.exit(77 if ctypes.get_errno() == errno.ENOSYS else 1)
    return answer[0]


def resident(fd):
    mapping = mmap.mmap(fd, PAGES * 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    pages = ctypes.create_string_buffer(PAGES)
    if libc.mincore(ctypes.addressof(ctypes.c_char.from_buffer(mapping)), PAGES * 4096, pages):
        sys.exit(f"mincore: errno {ctypes.get_errno()}")
    return sum(page & 1 for page in pages.raw)


def no_wait(fd):
    try:
        return f"{os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)} byte"
    except OSError as error:
        return "EOPNOTSUPP" if error.errno == errno.EOPNOTSUPP else errno.errorcode[error.errno]


seen = {}
for where in ["lower", "merged"]:
    fd = os.open(f"{sys.argv[1]}/{where}/file", os.O_RDWR)
    os.pread(fd, PAGES * 4096, 0)
    seen[where] = (cached(fd), resident(fd), no_wait(fd))
    print(f"{where}: cachestat {seen[where][0]} pages, mincore {seen[where][1]}, RWF_NOWAIT: {seen[where][2]}")
if seen["lower"] != (PAGES, PAGES, "1 byte") or seen["merged"] != (0, PAGES, "EOPNOTSUPP"):
    sys.exit("CHANGED")
print("AS STATED: of a file that was just read cachestat counts 0 pages on overlayfs, mincore all of them")
P
