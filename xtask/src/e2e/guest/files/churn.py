"""Keeps a file system busy in the ways that change trackers have missed: writes through mappings,
holes punched, ranges zeroed, files cut and removed, and discards.

churn.py FOLDER   never ends; FOLDER/rounds counts the rounds
"""

import ctypes
import mmap
import os
import random
import subprocess
import sys

SIZE = 4 << 20
FILES = 12
PAGE = 4096
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10

libc = ctypes.CDLL(None, use_errno=True)


def fallocate(file, mode, offset, length):
    done = libc.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length))
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def somewhere():
    offset = random.randrange(SIZE // PAGE) * PAGE
    return offset, min(random.randrange(1, 64) * PAGE, SIZE - offset)


def map_and_write(file):
    with mmap.mmap(file, SIZE) as view:
        for _ in range(16):
            offset = random.randrange(SIZE // PAGE) * PAGE
            view[offset : offset + PAGE] = os.urandom(PAGE)


def change(path):
    if random.random() < 0.1 and os.path.exists(path):
        os.unlink(path)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(file, SIZE)
        offset, length = somewhere()
        os.pwrite(file, os.urandom(length), offset)
        map_and_write(file)
        fallocate(file, PUNCH_HOLE | KEEP_SIZE, *somewhere())
        fallocate(file, ZERO_RANGE, *somewhere())
        os.fsync(file)
    finally:
        os.close(file)


def main(folder):
    os.makedirs(folder, exist_ok=True)
    for rounds in range(1, sys.maxsize):
        change(os.path.join(folder, "file%d" % random.randrange(FILES)))
        if rounds % 50 == 0:
            subprocess.check_call(["fstrim", folder])
        with open(os.path.join(folder, "rounds"), "w") as count:
            count.write("%d\n" % rounds)


main(sys.argv[1])
