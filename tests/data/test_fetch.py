"""The fetch command against a server on this machine: what is right is kept, all else refused."""

import hashlib
import http.server
import subprocess
import sys
import threading

import pytest

from caugym_jax.data import fetch as command
from caugym_jax.data import released
from caugym_jax.data.fetch import fetch
from caugym_jax.data.files import read_problems
from caugym_jax.data.released import Released, released_files, released_path
from caugym_jax.errors import UserError

CONTENT = b'[{"problem": "A?", "answer": "LACK_CONDITION", "Type": "ATE"}]' + b" " * 5000
FILE = Released(
    "caugym",
    "redundant",
    "owner/name",
    "c0ffee",
    "sets/redundant_dataset.json",
    len(CONTENT),
    hashlib.sha256(CONTENT).hexdigest(),
    False,
)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves what the test put into `files`; understands Range; may break off."""

    files: dict = {}
    break_after = None
    seen: list = []

    def do_GET(self):
        self.seen.append((self.path, self.headers.get("Range")))
        body = self.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[len("bytes=") : -1])
        if start and start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : self.break_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """(address, handler class) of a server on the loopback interface."""
    handler = type("Fresh", (Handler,), {"files": {}, "seen": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", handler
        served.shutdown()
        thread.join()


def left(cache):
    return sorted(p.name for p in cache.rglob("*") if p.is_file())


def test_the_right_file_is_kept_and_not_asked_for_again(server, tmp_path):
    address, handler = server
    handler.files[f"/{FILE.place}"] = CONTENT
    assert fetch(FILE, tmp_path, address) is True
    assert (tmp_path / FILE.place).read_bytes() == CONTENT
    assert left(tmp_path) == ["redundant_dataset.json"]
    assert fetch(FILE, tmp_path, address) is False
    assert len(handler.seen) == 1
    (tmp_path / FILE.place).write_bytes(b"spoilt")
    assert fetch(FILE, tmp_path, address) is True
    assert (tmp_path / FILE.place).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "body, words",
    [
        (CONTENT.replace(b"A?", b"B?"), "another SHA-256"),
        (CONTENT[:-7], f"{len(CONTENT) - 7} bytes instead of {len(CONTENT)}"),
        (CONTENT + b"more", f"bytes or more instead of {len(CONTENT)}"),
        (b"", "0 bytes instead"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
    ],
)
def test_anything_else_is_refused_and_nothing_of_it_kept(server, tmp_path, body, words):
    address, handler = server
    handler.files[f"/{FILE.place}"] = body
    with pytest.raises(UserError, match=words) as error:
        fetch(FILE, tmp_path, address)
    assert "\n" not in str(error.value) and address in str(error.value)
    assert left(tmp_path) == []


def test_a_good_file_outlives_a_bad_download(server, tmp_path, monkeypatch):
    address, handler = server
    handler.files[f"/{FILE.place}"] = CONTENT
    fetch(FILE, tmp_path, address)
    newer = FILE._replace(sha256="0" * 64)
    with pytest.raises(UserError, match="another SHA-256"):
        fetch(newer, tmp_path, address)
    assert (tmp_path / FILE.place).read_bytes() == CONTENT


def test_a_broken_download_goes_on(server, tmp_path):
    address, handler = server
    handler.files[f"/{FILE.place}"] = CONTENT
    handler.break_after = 3000
    with pytest.raises(UserError, match=f"after 3000 of {len(CONTENT)} bytes; run this again"):
        fetch(FILE, tmp_path, address)
    assert left(tmp_path) == [".redundant_dataset.json.part"]
    handler.break_after = None
    assert fetch(FILE, tmp_path, address) is True
    assert [asked for _, asked in handler.seen] == [None, "bytes=3000-"]
    assert left(tmp_path) == ["redundant_dataset.json"]


def test_a_spoilt_beginning_is_not_kept(server, tmp_path):
    address, handler = server
    handler.files[f"/{FILE.place}"] = CONTENT
    partial = (tmp_path / FILE.place).with_name(".redundant_dataset.json.part")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"rubbish")
    with pytest.raises(UserError, match="another SHA-256"):
        fetch(FILE, tmp_path, address)
    assert fetch(FILE, tmp_path, address) is True
    partial.write_bytes(b"x" * len(CONTENT))  # as long as the file, and not it
    (tmp_path / FILE.place).unlink()
    assert fetch(FILE, tmp_path, address) is True


def test_missing_file_and_no_network(server, tmp_path):
    address, _ = server
    with pytest.raises(UserError, match=f"cannot download {address}/.*: 404"):
        fetch(FILE, tmp_path, address)
    with pytest.raises(UserError, match=r"refused.*; check the network"):
        fetch(FILE, tmp_path, "http://127.0.0.1:1")
    assert left(tmp_path) == []


def test_a_folder_can_be_the_mirror(tmp_path):
    source = tmp_path / "mirror" / FILE.place
    source.parent.mkdir(parents=True)
    source.write_bytes(CONTENT)
    assert fetch(FILE, tmp_path / "cache", (tmp_path / "mirror").as_uri()) is True
    assert (tmp_path / "cache" / FILE.place).read_bytes() == CONTENT


def test_fetched_files_are_data_sources(server, tmp_path, monkeypatch, capsys):
    address, handler = server
    monkeypatch.setenv("CAUGYM_CACHE", str(tmp_path))
    monkeypatch.setattr(released, "released_files", lambda: (FILE,))
    monkeypatch.setattr(command, "released_files", lambda: (FILE,))
    with pytest.raises(UserError, match=r"run `python -m caugym_jax.data.fetch --set=caugym`"):
        read_problems("caugym:redundant")
    handler.files[f"/{FILE.place}"] = CONTENT
    command.main(["--set=caugym", f"--mirror={address}"])
    assert "1 files in" in capsys.readouterr().out
    (problem,) = read_problems("caugym:redundant")
    assert (problem.text, problem.variant, problem.lacks) == ("A?", "redundant", True)


def test_one_refused_file_does_not_stop_the_others(server, tmp_path, monkeypatch, capsys):
    address, handler = server
    bad, gone, good = (FILE._replace(name=n, path=f"{n}.json") for n in ("bad", "gone", "good"))
    monkeypatch.setattr(command, "released_files", lambda: (bad, gone, good))
    handler.files |= {f"/{bad.place}": b"other", f"/{good.place}": CONTENT}
    with pytest.raises(UserError, match=r"bad.json is not the released.*\(and 1 more files\)"):
        command.main([f"--cache={tmp_path}", f"--mirror={address}"])
    assert left(tmp_path) == ["good.json"]
    assert "1 files in" in capsys.readouterr().out


def test_the_manifest():
    files = released_files()
    assert len(files) == 60 and len({(f.set, f.name) for f in files}) == 60
    for file in files:
        assert len(file.sha256) == 64 and len(file.commit) == 40 and file.size > 0
        assert file.url().startswith("https://") and file.url().endswith(file.path)
        assert ("media.githubusercontent.com/media/" in file.url()) == file.lfs
    assert {f.name for f in files if f.lfs} == {
        *("sft", "cold_start_jsonl", "dpo", "kto", "online_rl_json")
    }
    with pytest.raises(UserError, match="caugym:bass: no such file; caugym: has .*base"):
        released_path("caugym:bass")


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    module = [sys.executable, "-m", "caugym_jax.data.fetch"]
    flags = ["--set=calm_lite", f"--cache={tmp_path}", "--mirror=http://127.0.0.1:1"]
    done = subprocess.run([*module, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot download http://127.0.0.1:1/OpenCausaLab/CaLM/")
    done = subprocess.run([*module, "--set=none"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
