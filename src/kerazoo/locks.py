"""Locks of files and folders that go with their process, however it ends."""


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Whether this process holds the open file or folder from now on, until it is closed or the process ends.

    False where another process holds it, unless it is to `wait` for that. True on Windows, which has no such locks.
    Raises OSError on file systems that have none.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
