"""Memory that is free goes back to the system, and few areas hold it, where glibc manages it."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys, threading
from keras_gpt.memory import give_back_memory, keep_memory_together

libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = libc.fclose.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_memory_together()
begun = threading.Barrier(8)

def allocate(pieces):
    begun.wait()
    pieces += [libc.malloc(2000) for _ in range(5000)]
    for piece in pieces[-5000:]:
        ctypes.memset(piece, 1, 2000)

kept = [[] for _ in range(8)]
threads = [threading.Thread(target=allocate, args=(each,)) for each in kept]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
last = kept[-1].pop()  # behind all that is free: else glibc gives that back by itself
for piece in (piece for pieces in kept for piece in pieces):
    libc.free(piece)
before = resident()
give_back_memory()
print(open(sys.argv[1]).read().count("<heap nr="), before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems than Linux have no glibc")
def test_few_areas_and_what_is_free_goes_back(tmp_path):
    def run(**more):
        environment = {**os.environ, **more}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "info.xml")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        areas, freed = map(int, done.stdout.split())
        return areas, freed

    areas, freed = run()
    assert areas <= 2
    assert freed > 20e6  # of 80 MB, some of which glibc gives back by itself
    assert run(MALLOC_ARENA_MAX="6")[0] > 2, "what the user says comes first"
