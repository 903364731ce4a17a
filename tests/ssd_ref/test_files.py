import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssdconv.errors import MappingError, OutputError
from ssdconv.ssd_ref.files import atomic_path, locked


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_new_file(tmp_path):
    with atomic_path(tmp_path / "a.bin") as temporary:
        assert temporary.parent == tmp_path and not (tmp_path / "a.bin").exists()
        temporary.write_bytes(b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new" and names(tmp_path) == ["a.bin"]


def test_replaces_and_keeps_permissions(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o640


def test_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit, ValueError, MappingError("x"), MemoryError, GeneratorExit]
)
def test_any_error_leaves_the_old_file_and_no_temp(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_data_reaches_the_disk_before_the_rename(tmp_path, monkeypatch):
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"file {os.fstat(handle).st_size}")
        real_fsync(handle)

    def replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"12345")
    assert events == ["file 5", "rename", "folder"]


@pytest.mark.parametrize(
    ("dst", "text"),
    [("no/such/folder/a.bin", "No such file"), ("folder", "this is a folder"), ("file/a.bin", "Not a directory")],
)
def test_places_that_cannot_be_written(tmp_path, dst, text):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=text) as caught, atomic_path(tmp_path / dst):
        pytest.fail("the block must not run")
    assert caught.value.where == str(tmp_path / dst)


def test_read_only_folder(tmp_path):
    """Root may write anywhere, so the child gives up its rights first."""
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"old")
    folder.chmod(0o555)
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    code = """if True:
        import os, sys
        from pathlib import Path
        from ssdconv.ssd_ref.files import atomic_path, locked
        from ssdconv.errors import OutputError
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            with atomic_path(Path(sys.argv[1])):
                print("ran")
        except OutputError as error:
            print(error.what)
    """
    done = child(code, folder / "a.bin")
    assert done.stdout.strip() == "cannot write the file: Permission denied", done.stderr
    assert (folder / "a.bin").read_bytes() == b"old"


def child(code: str, *args: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("limit", [0, 1, 4096, 100_000])
def test_disk_full(tmp_path, limit):
    """A file-size limit in the child stands for a full disk."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = """if True:
        import resource, signal, sys
        from pathlib import Path
        from ssdconv.ssd_ref.files import atomic_path, locked
        from ssdconv.errors import OutputError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        try:
            with atomic_path(Path(sys.argv[1])) as temporary:
                temporary.write_bytes(bytes(200_000))
        except OutputError as error:
            sys.exit(error.exit_code)
    """
    done = child(code, path, limit)
    assert done.returncode == 3, done.stderr
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


WRITER = """if True:
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    from pathlib import Path
    from ssdconv.ssd_ref.files import atomic_path, locked
    while True:
        with atomic_path(Path(sys.argv[1])) as temporary, open(temporary, "wb") as stream:
            for _ in range(64):
                stream.write(b"n" * 65536)
                stream.flush()
                if stream.tell() == 65536:
                    print("writing", flush=True)
"""


@pytest.mark.parametrize(("number", "leftover"), [(signal.SIGINT, False), (signal.SIGKILL, True)])
def test_killed_in_mid_write(tmp_path, number, leftover):
    """The destination is the old file or a whole new one; a signal that Python can handle leaves no temp."""
    for delay in (0.0, 0.001, 0.004, 0.01):
        path = tmp_path / "a.bin"
        path.write_bytes(b"o" * 100)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"writing\n"
        time.sleep(delay)
        process.send_signal(number)
        process.communicate(timeout=30)
        assert path.read_bytes() in (b"o" * 100, b"n" * 65536 * 64)
        if not leftover:
            assert names(tmp_path) == ["a.bin"]
        for stray in tmp_path.glob(".a.bin.*.tmp"):
            stray.unlink()


def test_devices_and_pipes_are_no_places_to_write_to(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", Path("/dev/null")):
        with pytest.raises(OutputError, match="device, pipe or socket"), atomic_path(path) as temporary:
            temporary.write_bytes(b"x")
    assert stat.S_ISFIFO((tmp_path / "pipe.pth").stat().st_mode)


def test_leftovers_of_killed_processes_go_and_others_stay(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".a.bin.{gone.pid}.0123abcd.tmp").write_bytes(b"half")
    kept = [f".a.bin.{os.getpid()}.0123abcd.tmp", f".b.bin.{gone.pid}.0123abcd.tmp", ".a.bin.x.y.tmp"]
    for name in kept:
        (tmp_path / name).write_bytes(b"other")
    with atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"new")
    assert names(tmp_path) == sorted([*kept, "a.bin"])


HOLDER = """
import sys
from pathlib import Path
from ssdconv.ssd_ref.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock ``tmp_path / "a.lock"`` until a line comes or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "a.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate(timeout=30)


def test_a_lock_waits_and_says_so_once(tmp_path, holder):
    told = []

    def waiting():
        told.append(time.monotonic())
        holder.stdin.write(b"\n")
        holder.stdin.flush()

    began = time.monotonic()
    with locked(tmp_path / "a.lock", waiting, patience=0.3):
        assert len(told) == 1 and told[0] - began >= 0.3


def test_a_lock_dies_with_its_holder(tmp_path, holder):
    with locked(tmp_path / "a.lock", holder.kill, patience=0.05):
        assert holder.wait(30) == -signal.SIGKILL


def test_waiting_for_a_lock_can_be_given_up(tmp_path, holder):
    def waiting():
        raise LookupError

    with pytest.raises(LookupError), locked(tmp_path / "a.lock", waiting, patience=0):
        pytest.fail("the block must not run")


def test_a_lock_follows_no_link_and_takes_no_folder(tmp_path):
    (tmp_path / "there").write_text("precious")
    (tmp_path / "a.lock").symlink_to(tmp_path / "there")
    (tmp_path / "b.lock").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.lock").mkdir()
    for name in ("a.lock", "b.lock", "c.lock"):
        with pytest.raises(OutputError, match="cannot make a lock file"), locked(tmp_path / name, patience=0):
            pytest.fail("the block must not run")
    assert (tmp_path / "there").read_text() == "precious" and not (tmp_path / "nowhere").exists()


def test_a_lock_file_stays_empty_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "new" / "a.lock"):
            pass
    assert (tmp_path / "new" / "a.lock").read_bytes() == b""
