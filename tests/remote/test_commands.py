"""`llmforge checkpoints` on runs in a store: what is shown, what is fetched for it, and what moves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from remote.runs import RUN_ID, made_checkpoint, made_run, tree

from llmforge.checkpoints import inspect, transfer
from llmforge.runtime.commands import run_command
from llmforge.storage.records import write_json


@pytest.fixture
def told(capsys):
    """Runs the command: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command(inspect.main, [str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def as_json(told):
    def call(*arguments: object) -> dict:
        code, out, err = told(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def there(bucket, tmp_path) -> str:
    """The URL of a run of two checkpoints in a store; a third has no manifest yet."""
    run = made_run(tmp_path / "made" / "mine", 1, 2, 3)
    for name in tree(run):
        if name != "checkpoint-3/manifest.json":
            bucket.write(f"pre/mine/{name}", (run / name).read_bytes())
    return f"{bucket.url}/pre/mine"


def downloaded(proxy) -> set[str]:
    """The files whose bytes were fetched."""
    return {seen.name.rpartition("/")[2] for seen in proxy.seen if seen.phase == "download"}


def test_list_and_view_fetch_no_weights(there, as_json, told, proxy):
    listed = as_json("list", there)["checkpoints"]
    assert [(item["name"], item["state"], item["best"]) for item in listed] == [
        ("checkpoint-1", "committed", True),
        ("checkpoint-2", "committed", False),
        ("checkpoint-3", "not committed", False),
    ]
    assert listed[0]["path"] == f"{there}/checkpoint-1"
    assert listed[0]["size"] > 15_000
    code, out, _ = told("view", there, "2")
    assert (code, "checkpoint-2" in out, "5.9800" in out or "5.98" in out) == (0, True, True)
    assert downloaded(proxy) == {"manifest.json", "metadata.json", "trainer_state.json", "run.json"}


def test_a_size_that_is_not_the_manifest_s_is_seen_without_fetching_it(there, bucket, as_json, proxy):
    bucket.write("pre/mine/checkpoint-1/optimizer.pt", b"short")
    listed = as_json("list", there)["checkpoints"]
    assert listed[0]["state"] == "damaged"
    assert "optimizer.pt: has 5 bytes, not 10000" in listed[0]["problems"]
    assert "optimizer.pt" not in downloaded(proxy)


def test_plot_is_drawn_from_the_store(there, told, tmp_path):
    code, _, _ = told("plot", there, "2", "--save", tmp_path / "loss.png")
    assert code == 0
    assert (tmp_path / "loss.png").stat().st_size > 5_000


def test_compare_fetches_weights_only_where_they_are_compared(bucket, tmp_path, as_json, proxy):
    import numpy as np
    from safetensors.numpy import save_file

    from llmforge.checkpoints.manifest import write_manifest

    run = made_run(tmp_path / "made" / "mine", 1, 2)
    for step in (1, 2):
        folder = run / f"checkpoint-{step}"
        save_file({"transformer.wte.weight": np.full((2, 3), float(step), np.float32)}, folder / "model.safetensors")
        (folder / "manifest.json").unlink()
        write_manifest(folder, RUN_ID, step)
    for name in tree(run):
        bucket.write(f"pre/mine/{name}", (run / name).read_bytes())
    url = f"{bucket.url}/pre/mine"
    assert as_json("compare", url, "1", "2", "--no_weights")["weight_distance"] == {}
    assert "model.safetensors" not in downloaded(proxy)
    assert list(as_json("compare", url, "1", "2")["weight_distance"]["checkpoint-2"].values()) == [1.0]
    assert "optimizer.pt" not in downloaded(proxy)


def test_verify_reads_every_byte_in_the_store(there, bucket, told, as_json):
    assert as_json("verify", there, "1", "2") == {"checkpoints": {"checkpoint-1": [], "checkpoint-2": []}, "sound": True}
    body = bytearray(bucket.read("pre/mine/checkpoint-2/optimizer.pt"))
    body[77] ^= 1
    bucket.write("pre/mine/checkpoint-2/optimizer.pt", bytes(body))
    bucket.write("pre/mine/checkpoint-1/stray.bin", b"x")
    code, out, err = told("verify", there, "1", "2")
    assert code == 7
    assert "checkpoint-2: optimizer.pt: has another SHA-256" in out
    assert "checkpoint-1: stray.bin: is not in manifest.json" in out
    assert err.count("\n") == 1


def test_a_bit_that_flips_on_the_way_is_no_damage_in_the_store(there, as_json, proxy):
    proxy.add("corrupt down", "download", name="optimizer")
    assert as_json("verify", there, "1")["sound"]


def test_status_of_a_url_is_what_the_bucket_tells(there, bucket, as_json):
    told = as_json("status", there)
    assert told["state"].startswith("no end recorded")
    assert (told["newest_committed"], told["not_committed"], told["remote"]) == ("checkpoint-2", ["checkpoint-3"], there)
    bucket.write("pre/mine/exit.json", json.dumps({"exit_code": 75, "undelivered_uploads": ["checkpoint-3"]}).encode())
    told = as_json("status", there)
    assert (told["state"][:11], told["exit_code"], told["undelivered_uploads"]) == ("interrupted", 75, ["checkpoint-3"])


def test_status_of_a_url_believes_no_end_that_is_past(there, bucket, as_json):
    """The run went on; that the store's copy of its end be deleted could not be done."""
    bucket.write("pre/mine/run.json", json.dumps({"run_id": RUN_ID, "starts": 2}).encode())
    bucket.write("pre/mine/exit.json", json.dumps({"exit_code": 0, "reason": "finished", "starts": 1}).encode())
    told = as_json("status", there)
    assert told["state"].startswith("no end recorded")
    assert (told["exit_code"], told["reason"]) == (None, None)
    bucket.write("pre/mine/exit.json", json.dumps({"exit_code": 0, "reason": "finished", "starts": 2}).encode())
    assert as_json("status", there)["state"] == "finished"


def test_status_of_a_url_tells_what_was_set_aside(there, bucket, as_json, told):
    manifest = bucket.read("pre/mine/checkpoint-2/manifest.json")
    bucket.write("pre/mine/checkpoint-2/manifest-set-aside.json", manifest)
    bucket.delete("pre/mine/checkpoint-2/manifest.json")
    value = as_json("status", there)
    assert (value["set_aside"], value["not_committed"], value["checkpoints"]) == (["checkpoint-2"], ["checkpoint-3"], 1)
    assert "set aside" in told("status", there)[1]


def test_status_tells_a_run_that_goes_on_from_one_that_only_waits(as_json, tmp_path):
    from llmforge.runtime.run_lock import RunLock

    run = made_run(tmp_path / "runs" / "mine", 1)
    lock = RunLock(run)
    try:
        assert as_json("status", run)["state"] == "running"
        write_json(run / "exit.json", {"exit_code": 5, "undelivered_uploads": ["checkpoint-1"]})
        assert as_json("status", run)["state"] == "ended: it waits for its uploads"
    finally:
        lock.release()


def test_upload_of_what_was_left_makes_a_finished_run_of_it(bucket, as_json, tmp_path):
    run = made_run(tmp_path / "runs" / "mine", 1)
    reason = "Not uploaded yet: checkpoint-1."
    write_json(run / "exit.json", {"exit_code": 5, "reason": reason, "finished": True, "undelivered_uploads": ["checkpoint-1"]})
    as_json("upload", run, "--all", "--remote", f"{bucket.url}/pre")
    value = as_json("status", run)
    assert (value["state"], value["exit_code"], value["undelivered_uploads"]) == ("finished", 0, [])
    assert as_json("status", f"{bucket.url}/pre/mine")["exit_code"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("list", "{bucket}/pre/none"), 4, "/pre/none holds no run"),
        (("view", "{there}", "7"), 4, "/pre/mine has no checkpoint 7"),
        (("prune", "{there}", "--keep", "1"), 2, "--remote_total_limit"),
        (("upload", "{there}", "--all"), 2, "upload takes a folder"),
        (("list", "gs://no-such-bucket-at-all/run"), 5, "there is no bucket no-such-bucket-at-all"),
        (("download", "gs://no-such-bucket-at-all/run"), 5, "there is no bucket no-such-bucket-at-all"),
        (("list", "nope://x/y"), 2, "nope:// is no store"),
        (("download", "{bucket}/pre/none"), 4, "has no checkpoint"),
        (("download", "{there}", "9"), 4, "has no checkpoint-9. It has checkpoint-1, checkpoint-2"),
        (("download", "{there}/checkpoint-3"), 4, "has no checkpoint-3"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(arguments, code, message, there, bucket, told):
    got, out, err = told(*(item.format(there=there, bucket=bucket.url) for item in arguments))
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert message in err
    assert "/tmp" not in err


def test_what_came_down_is_what_went_up(there, as_json, tmp_path):
    value = as_json("download", there, "--output_dir", tmp_path / "down")
    assert value["checkpoint"] == str(tmp_path / "down" / "checkpoint-2")
    made = tree(tmp_path / "made" / "mine")
    got = tree(tmp_path / "down")
    assert {name: made[name] for name in got if name != "run.lock"} == {name: got[name] for name in got if name != "run.lock"}
    assert {name.partition("/")[0] for name in got} - {"run.lock"} == {"checkpoint-2", "run.json", "metrics.jsonl"}
    assert as_json("verify", tmp_path / "down")["sound"]


@pytest.mark.parametrize(("name", "step"), [("best", 1), ("1", 1), ("checkpoint-2", 2), ("newest", 2)])
def test_download_by_name(name, step, there, as_json, tmp_path):
    assert as_json("download", there, name, "--output_dir", "x")["checkpoint"] == f"x/checkpoint-{step}"


def test_download_of_a_checkpoint_s_own_url_into_the_run_s_name(there, as_json, tmp_path):
    assert as_json("download", f"{there}/checkpoint-1")["checkpoint"] == "runs/mine/checkpoint-1"


def test_download_leaves_another_run_s_folder_alone(there, told, tmp_path):
    other = made_run(tmp_path / "other", 5, run_id="f" * 12)
    before = tree(other)
    code, _, err = told("download", there, "--output_dir", other)
    assert (code, "holds another run" in err) == (2, True)
    assert tree(other) == before


def test_upload_all_brings_what_is_missing_and_records_it(bucket, told, as_json, tmp_path):
    run = made_run(tmp_path / "runs" / "mine", 1, 2)
    write_json(run / "exit.json", {"exit_code": 5, "undelivered_uploads": ["checkpoint-1", "checkpoint-2"]})
    code, _, err = told("upload", run, "--all")
    assert (code, "was trained without --remote" in err) == (2, True)
    first = as_json("upload", run, "1", "--remote", f"{bucket.url}/pre")
    assert (first["uploaded"], bucket.checkpoints("pre/mine")) == (["checkpoint-1"], ["checkpoint-1"])
    assert as_json("status", run)["undelivered_uploads"] == ["checkpoint-2"]
    assert json.loads(bucket.read("pre/mine/exit.json"))["undelivered_uploads"] == ["checkpoint-2"]
    as_json("upload", run, "--all")  # where to is known by now
    assert bucket.checkpoints("pre/mine") == ["checkpoint-1", "checkpoint-2"]
    assert bucket.damage("pre/mine") == []
    told_now = as_json("status", run)
    assert [(item["name"], item["here"], item["remote"]) for item in told_now["uploads"]] == [
        ("checkpoint-1", "committed", "done"),
        ("checkpoint-2", "committed", "done"),
    ]
    assert told_now["undelivered_uploads"] == []
    assert json.loads(bucket.read("pre/mine/exit.json"))["undelivered_uploads"] == []
    assert bucket.read("pre/mine/metrics.jsonl") == (run / "metrics.jsonl").read_bytes()


def test_upload_to_another_run_s_place_is_refused(there, bucket, told, tmp_path):
    run = made_run(tmp_path / "runs" / "mine", 7, run_id="f" * 12)
    before = bucket.everything()
    code, _, err = told("upload", run, "--all", "--remote", f"{bucket.url}/pre")
    assert (code, "already holds another run" in err) == (2, True)
    assert bucket.everything() == before


def test_upload_that_fails_says_so_and_goes_on_where_it_was(bucket, told, as_json, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "_PAUSE", 0.0)
    run = made_run(tmp_path / "runs" / "mine", 1)
    proxy.add("403", "upload", name="optimizer", times=float("inf"))
    code, out, err = told("upload", run, "--all", "--remote", f"{bucket.url}/pre")
    assert (code, out) == (5, "")
    assert "Not uploaded: checkpoint-1: gs://" in err.splitlines()[-1]
    assert "permission denied" in err.splitlines()[-1]
    assert bucket.checkpoints("pre/mine") == []
    [item] = as_json("status", run)["uploads"]
    assert (item["remote"], item["attempts"], "permission denied" in item["error"]) == ("failed", 3, True)
    proxy.clear()
    before = proxy.count("upload", "model.safetensors")
    as_json("upload", run, "--all")
    assert bucket.checkpoints("pre/mine") == ["checkpoint-1"]
    assert proxy.count("upload", "model.safetensors") == before


def test_status_tells_what_a_killed_run_left(as_json, told, tmp_path):
    run = made_run(tmp_path / "runs" / "mine", 1, 2, 3)
    item = {"bytes": 4_000_000, "seconds": 2.0, "attempts": 1, "error": None, "time": "", "best": None, "stamp": None}
    known = {
        "checkpoint-1": item | {"state": "done"},
        "checkpoint-2": item | {"state": "uploading", "bytes": 0, "seconds": 0.0, "attempts": 4, "error": "no network"},
        "checkpoint-0": item | {"state": "superseded"},
    }
    write_json(run / "uploads.json", {"remote": "gs://b/pre/mine", "superseded": 1, "checkpoints": known, "files": {}})
    shutil.rmtree(run / "checkpoint-1")
    value = as_json("status", run)
    assert [(one["name"], one["here"], one["remote"]) for one in value["uploads"]] == [
        ("checkpoint-0", None, "superseded"),
        ("checkpoint-1", None, "done"),
        ("checkpoint-2", "committed", "queued"),
        ("checkpoint-3", "committed", "queued"),
    ]
    assert value["undelivered_uploads"] == ["checkpoint-2", "checkpoint-3", "run.json", "metrics.jsonl"]
    assert (value["bytes_per_second"], value["superseded_uploads"]) == (2_000_000, 1)
    code, out, _ = told("status", run)
    assert code == 0
    assert "gs://b/pre/mine" in out
    assert "no network" in out


def test_a_checkpoint_never_committed_is_not_uploaded(bucket, told, tmp_path):
    run = made_run(tmp_path / "runs" / "mine", 1)
    (made_checkpoint(run, 2) / "manifest.json").unlink()
    code, _, err = told("upload", run, "2", "--remote", f"{bucket.url}/pre")
    assert (code, "checkpoint-2 was never committed" in err) == (4, True)
    assert bucket.names() == []


def test_a_bucket_s_names_cannot_reach_outside(bucket, as_json, tmp_path, there):
    bucket.write("pre/mine/checkpoint-1/../../escape", b"x")
    bucket.write("pre/mine/checkpoint-1/a\\b", b"x")
    as_json("list", there)
    as_json("download", there, "--output_dir", tmp_path / "down")
    assert not list(tmp_path.rglob("escape"))
    assert not list(Path(tmp_path).rglob("a\\b"))
