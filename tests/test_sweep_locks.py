"""Locks: never two at once, whatever is killed when; nobody waits for the dead."""
import subprocess
import sys
import json
import os
import signal
import time

import pytest

from apart import start_apart
from w2snb.core.locks import EXPIRY, Busy, Claims, Lock, living, this_machine, tidy


def work(folder, number, turns):
    """Take the lock some times; die in the middle of the last turn if the number is odd."""
    for turn in range(turns):
        with Lock(folder / "locks", "one"):
            inside = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)  # fails if somebody else is in
            os.close(inside)
            count = int((folder / "count").read_text())
            time.sleep(0.002)
            (folder / "count").write_text(str(count + 1))
            os.unlink(folder / "inside")
            if number % 2 and turn == turns - 1:
                os.kill(os.getpid(), signal.SIGKILL)


def test_never_two_at_once(tmp_path):
    (tmp_path / "count").write_text("0")
    crowd = [start_apart(work, tmp_path, i, 10) for i in range(8)]
    for p in crowd:
        p.join(120)
    assert [p.exitcode for p in crowd] == [0, -9] * 4
    assert int((tmp_path / "count").read_text()) == 80


@pytest.mark.quick
def test_of_another_machine(tmp_path):
    """It is waited for while its file is touched, and taken over when it was not for long; only one can."""
    path = tmp_path / "run.3.lock"
    path.write_text(json.dumps(dict(host="elsewhere", pid=1, started=0.0, token="theirs")))
    assert not Lock(tmp_path, "run").try_acquire() and living(tmp_path)["run"]["host"] == "elsewhere"
    os.utime(path, (time.time() - EXPIRY - 10,) * 2)
    first, second = Lock(tmp_path, "run"), Lock(tmp_path, "run")
    assert first.try_acquire() and not second.try_acquire()
    assert [p.name for p in tmp_path.glob("*.lock")] == ["run.4.lock"]
    first.release()
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.quick
def test_a_judgement_that_came_late(tmp_path, monkeypatch):
    """Somebody took over, worked and left while this one still believed in the dead owner: it gets in, but not beside another."""
    path = tmp_path / "run.0.lock"
    path.write_text(json.dumps(dict(host=this_machine(), pid=2**22 + 1, started=0.0, token="dead")))
    late, fresh = Lock(tmp_path, "run"), Lock(tmp_path, "run")
    import w2snb.core.locks

    create = w2snb.core.locks._create

    def interrupted(where, token):
        monkeypatch.setattr(w2snb.core.locks, "_create", create)
        path.unlink()  # the one that took over is gone again
        assert fresh.try_acquire() and fresh.path == path  # and another has begun
        return create(where, token)

    monkeypatch.setattr(w2snb.core.locks, "_create", interrupted)
    assert not late.try_acquire()
    assert fresh.owner()["token"] == fresh.token
    fresh.release()


@pytest.mark.quick
def test_lost_lock_is_not_released_for_another(tmp_path):
    first = Lock(tmp_path, "run")
    assert first.try_acquire()
    first.path.write_text(json.dumps(dict(host=this_machine(), pid=os.getpid(), started=0.0, token="another")))
    path = first.path
    first.release()
    assert path.exists()


@pytest.mark.quick
def test_several_or_none(tmp_path):
    other = Lock(tmp_path, "b")
    assert other.try_acquire()
    with pytest.raises(Busy), Claims(tmp_path) as claims:
        claims.take("a")
        claims.take("b")
    assert Lock(tmp_path, "a").owner() is None
    other.release()


@pytest.mark.quick
def test_tidy_leaves_the_living(tmp_path):
    mine = Lock(tmp_path, "mine")
    assert mine.try_acquire()
    (tmp_path / "dead.0.lock").write_text(json.dumps(dict(host=this_machine(), pid=2**22 + 1, started=0.0, token="x")))
    tidy(tmp_path)
    assert [p.name for p in tmp_path.glob("*.lock")] == ["mine.0.lock"]
    mine.release()


STOPPED = """
import sys
from w2snb.core import locks
locks.this_machine, locks._BEAT = lambda: 'elsewhere/0/0', .2
lock = locks.Lock(sys.argv[1], 'run', expiry=1)
print(lock.try_acquire(), flush=True)
input()
lock.release()
print('released', flush=True)
"""


@pytest.mark.quick
def test_an_owner_that_was_stopped_past_its_lease(tmp_path):
    """Its lock is another's by then; when it goes on and releases, it takes nothing away."""
    owner = subprocess.Popen([sys.executable, "-c", STOPPED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "True\n"
    mine = Lock(tmp_path, "run", expiry=1)
    assert not mine.try_acquire()
    os.kill(owner.pid, signal.SIGSTOP)
    time.sleep(1.5)
    assert mine.try_acquire()
    os.kill(owner.pid, signal.SIGCONT)
    assert owner.communicate("\n")[0] == "released\n"
    assert mine.owner()["token"] == mine.token and len(list(tmp_path.glob("*.lock"))) == 1
    mine.release()
    assert not list(tmp_path.glob("*.lock"))
