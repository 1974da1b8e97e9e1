"""Guard bands and poison around what the vector kernels write."""
import numpy as np

from minidl.kernels.cpu import memory

BAND = 4096                                          # floats before and after: as far as a wrong tile could reach
MARK = np.uint32(0x7FC0BEEF)                         # a NaN of our own, so that what reads it shows, and what writes it too


def guard_bands(patch):
    """Every array the kernels allocate starts as NaN and lies between bands that must not change; call what this returns."""
    rooms = []

    def empty(shape, dtype=np.float32):
        elements = int(np.prod(shape, dtype=np.int64))
        size = -(-elements * np.dtype(dtype).itemsize // 4)
        room = np.full(size + 2 * BAND, MARK, np.uint32)
        rooms.append((room, size))
        return room[BAND : BAND + size].view(dtype)[:elements].reshape(shape)

    patch.setattr(memory, "empty", empty)
    patch.setattr(memory, "scratch", lambda name, size: empty((size,)))

    def check():
        assert rooms, "nothing was allocated: the kernels did not run"
        for bits, size in rooms:
            assert (bits[:BAND] == MARK).all() and (bits[BAND + size :] == MARK).all(), "a kernel wrote outside its array"
        rooms.clear()

    return check
