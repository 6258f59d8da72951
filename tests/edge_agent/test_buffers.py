"""Frame buffers that are used again, and never while somebody looks at them."""

from edge_agent.buffers import REVIEWED_TAKES, Buffers

SHAPE = (4, 6, 3)


def test_what_nobody_holds_is_used_again() -> None:
    buffers = Buffers()
    first = id(buffers.take(SHAPE))
    assert all(id(buffers.take(SHAPE)) == first for _ in range(9))


def test_what_somebody_holds_is_left_alone_and_so_is_a_part_of_it() -> None:
    buffers = Buffers()
    frame = buffers.take(SHAPE)
    frame[:] = 7
    part = frame[1:2]
    del frame
    for _ in range(3):
        buffers.take(SHAPE)[:] = 9
    assert (part == 7).all()


def test_another_size_is_another_buffer() -> None:
    buffers = Buffers()
    assert buffers.take(SHAPE).shape == SHAPE
    assert buffers.take((8, 6, 3)).shape == (8, 6, 3)


def test_what_only_a_hiccup_needed_is_given_back() -> None:
    buffers = Buffers()
    held = [buffers.take(SHAPE) for _ in range(4)]
    held.clear()
    for _ in range(2 * REVIEWED_TAKES):
        buffers.take(SHAPE)
    assert len({id(buffer) for buffer in buffers._buffers}) == 1
