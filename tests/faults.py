"""The k-th call that touches a folder fails, or kills the process: for k = 1, 2, ... until an act passes untouched."""
import builtins
import errno
import io
import os
import signal
from contextlib import contextmanager
from pathlib import Path

KINDS = ("ENOSPC", "EIO", "EINTR", "kill")
CALLS = ("open", "replace", "rename", "link", "unlink", "remove", "fsync")


class Fault:
    """Counts calls below a folder; the k-th one fails."""

    def __init__(self, folder, k, kind):
        self.folder, self.k, self.kind, self.count, self.where = os.path.realpath(folder), k, kind, 0, None

    def inside(self, path):
        return isinstance(path, (str, bytes, os.PathLike)) and os.path.realpath(os.fsdecode(path)).startswith(self.folder)

    def step(self, what):
        self.count += 1
        if self.count != self.k:
            return
        self.where = what
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number))


class Writing:
    """A file whose writes count."""

    def __init__(self, file, fault, name):
        self.__dict__.update(file=file, fault=fault, name=name)

    def write(self, data):
        self.fault.step(f"write {self.name}")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self.file.__enter__() and self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def __iter__(self):
        return iter(self.file)


@contextmanager
def faulty(folder, k, kind):
    """All calls of this process count meanwhile."""
    fault, kept = Fault(folder, k, kind), {name: getattr(os, name) for name in CALLS}
    real, named = io.open, {}  # named: number of an open file -> its name

    def counted(name):
        def call(*args, **options):
            if name == "fsync" or any(map(fault.inside, args[:2])):
                fault.step(f"{name} {Path(os.fsdecode(args[0])).name if name != 'fsync' else ''}")
            result = kept[name](*args, **options)
            if name == "open" and fault.inside(args[0]):
                named[result] = Path(os.fsdecode(args[0])).name
            return result

        return call

    def opened(path, mode="r", *args, **options):
        if isinstance(path, int) and path in named:  # os.fdopen
            return Writing(real(path, mode, *args, **options), fault, named.pop(path))
        if not fault.inside(path):
            return real(path, mode, *args, **options)
        fault.step(f"open {Path(os.fsdecode(path)).name}")
        file = real(path, mode, *args, **options)
        return Writing(file, fault, Path(os.fsdecode(path)).name) if set(mode) & set("wxa") else file

    try:
        for name in CALLS:
            setattr(os, name, counted(name))
        builtins.open = io.open = opened
        yield fault
    finally:
        builtins.open = io.open = real
        for name, call in kept.items():
            setattr(os, name, call)


def one_sentence(error):
    text = str(error)
    assert isinstance(error, (OSError, ValueError)) and text and "\n" not in text and len(text) < 400, repr(error)


def trial(act, folder, k, kind):
    """Whether the act was touched. In a process of its own where that is killed."""
    if kind != "kill":
        with faulty(folder, k, kind) as fault:
            try:
                act()
            except Exception as e:
                assert fault.where, "it failed by itself"
                one_sentence(e)
        return fault.where
    if not (child := os.fork()):
        code = 1
        try:
            with faulty(folder, k, kind):
                act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return f"{k}" if os.WIFSIGNALED(status) else None


def every_fault(prepare, act, check, tmp_path, kind, most=300):
    """`prepare(folder)`, the act with a fault, `check(folder, finished)`, the act again, `check`; how many faults there were."""
    for k in range(1, most):
        folder = tmp_path / f"{kind}-{k}"
        folder.mkdir()
        prepare(folder)
        touched = trial(lambda: act(folder), folder, k, kind)
        check(folder, touched is None)
        act(folder)
        check(folder, True)
        if touched is None:
            return k - 1
    raise AssertionError(f"still at work after {most} calls")
