"""A word that is mistyped, or another's for the same, brings the right one."""

from __future__ import annotations

import pytest

from mpsr.cli.entry import run


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["recieve"], "did you mean mpsr recv?"),
        (["receive"], "did you mean mpsr recv?"),
        (["receiver"], "did you mean mpsr recv?"),
        (["listen"], "did you mean mpsr recv?"),
        (["server"], "did you mean mpsr recv?"),
        (["sned"], "did you mean mpsr send?"),
        (["produce"], "did you mean mpsr send?"),
        (["emit"], "did you mean mpsr send?"),
        (["tail"], "did you mean mpsr log?"),
        (["RECV"], "did you mean mpsr recv?"),
        (["jour"], "did you mean mpsr journal?"),
        (["help"], "did you mean mpsr --help?"),
        (["--verison"], "did you mean --version?"),
        (["journal", "verfy", "x"], "did you mean mpsr journal verify?"),
        (["recv", "x", "--coutn", "3"], "did you mean --count?"),
        (["recv", "x", "--max-conections", "3"], "did you mean --max-connections?"),
        (["recv", "x", "-o", "jsno"], "did you mean json?"),
        (["recv", "x,type=datagram"], "did you mean dgram?"),
        (["send", "x", "--framing", "line"], "did you mean lines?"),
        (["completion", "bsah"], "did you mean bash?"),
        (["man", "recieve"], "did you mean recv?"),
    ],
)
def test_what_was_meant_is_told(
    capfd: pytest.CaptureFixture[str], arguments: list[str], advice: str
) -> None:
    assert run(arguments) == 2
    out, told = capfd.readouterr()
    assert out == ""
    assert told.splitlines()[-1] == f"  try: {advice}"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["xyzzy"], "mpsr --help lists the commands"),
        (["recv", "x", "--xyzzy"], "mpsr recv --help lists the options"),
    ],
)
def test_unknown_word_without_a_similar_one_leads_to_the_list(
    capfd: pytest.CaptureFixture[str], arguments: list[str], advice: str
) -> None:
    assert run(arguments) == 2
    assert capfd.readouterr().err.endswith(f"\n  try: {advice}\n")
