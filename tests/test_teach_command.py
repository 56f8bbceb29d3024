"""mapl-edge teach, through the installed command itself."""

from __future__ import annotations

import json
from pathlib import Path

from test_cli import mapl_edge
from test_history import kept, lines

from mapl_edge.bundle import Bundle, open_bundle

__all__ = ["kept"]


def test_reject_of_the_store_is_taught_and_taken_off(kept: Path, bundle: Bundle, calibration_data: Path) -> None:
    """By its number, as the operator reads it in the history."""
    entries = lines(mapl_edge("history", "--verdict", "fail", "--json", cwd=kept).stdout)
    seq = int(str(entries[0]["seq"]))
    other = int(str(entries[1]["seq"]))

    labelled = json.loads(mapl_edge("teach", "part.mapl", "--bad", other, "--json", cwd=kept).stdout)
    arguments = ("--good", seq, "--calibration", calibration_data, "--force", "--threads", 1, "--json")
    done = mapl_edge("teach", "part.mapl", *arguments, cwd=kept)
    shown = json.loads(mapl_edge("teach", "part.mapl", "--show", "--json", cwd=kept).stdout)
    told = json.loads(done.stdout)

    assert labelled["digest"] == bundle.digest
    assert labelled["bad"][0]["score_before"] == entries[1]["score"]
    assert told["digest_before"] == bundle.digest != told["digest"] == open_bundle(bundle.path).digest
    taught = told["effects"][0]
    assert (taught["kind"], taught["name"], taught["before"]) == ("taught", f"line-3/{seq}", "FAIL")
    assert abs(taught["score_before"] - float(str(entries[0]["score"]))) < 1e-4
    assert taught["score_after"] < taught["score_before"]
    counts, listed = told["known_parts"], told["effects"][1:]
    assert (counts["good"], counts["defect"]) == (20, 1)
    assert len(listed) >= counts["moved"] > 0
    assert sum(one["before"] != one["after"] for one in listed) == counts["changed"]
    assert told["calibration"]["limits"] == open_bundle(bundle.path).calibration.limits.model_dump()
    assert "pictures" not in told["calibration"]
    assert [list(one["parts"]) for one in shown["lessons"]] == [[f"line-3/{seq}"]]
    assert "FAIL -> " in done.stderr
    mapl_edge("teach", "part.mapl", "--undo", cwd=kept)
    back = open_bundle(bundle.path)
    assert back.digest == bundle.digest
    assert len(back.calibration.defects) == 1


def test_bad_input_gets_one_line(kept: Path) -> None:
    """What was found, what to do."""
    for arguments, code, expected in (
        (["--good", "999", "--store", "store"], 4, "has no number 999; see mapl-edge history store"),
        (["--good", "0", "--run", "nobody"], 4, "holds no verdict of that run"),
        (["--good", "0"], 4, "pictures that the limits came from were not found"),
        (["--good", "missing.png"], 4, "cannot be read"),
        (["--undo"], 5, "nothing was taught"),
    ):
        told = mapl_edge("teach", "part.mapl", *arguments, cwd=kept, code=code)
        assert expected in told.stderr.splitlines()[-1]
        assert "Traceback" not in told.stderr


def test_a_passed_part_whose_picture_is_not_kept_tells_how_to_get_it(kept: Path) -> None:
    """A defect that was missed is just such a part."""
    station = kept / "station.yaml"
    station.write_text(station.read_text().replace("pass_every: 1", "pass_every: 0"))
    mapl_edge("run", cwd=kept)
    passed = next(entry for entry in reversed(lines(mapl_edge("history", "--json", cwd=kept).stdout))
                  if entry["verdict"] == "PASS")  # fmt: skip

    told = mapl_edge("teach", "part.mapl", "--bad", passed["seq"], cwd=kept, code=4).stderr.splitlines()[-1]

    assert passed["stored_picture"] is None
    assert f"number {passed['seq']} of run {passed['run']} passed" in told
    assert "name the file, or set pass_every: 1, which keeps all" in told
