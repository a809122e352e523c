"""The supervisor, with real processes.

Each test runs a supervisor in a process of its own, as `darkroom up` does. It and its children write to one pipe, so
that tests wait for what happens, never for a time; when the pipe ends, the last of them is gone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self

import pytest

WITHIN_S = 20.0

# A child that tells its start and its SIGTERM, and sleeps between; a stubborn one does not end.
SLEEPER = """
import json, os, signal, sys
name, stubborn = sys.argv[1], "stubborn" in sys.argv
def tell(what):
    os.write(1, (json.dumps({"name": name, "what": what, "pid": os.getpid()}) + "\\n").encode())
def on_term(number, frame):
    tell("term")
    if not stubborn:
        sys.exit(0)
signal.signal(signal.SIGTERM, on_term)
tell("start")
while True:
    signal.pause()
"""

PRELUDE = f"""
import json, os, sys
from pathlib import Path
from store import processes
from store.processes import Program, Supervisor
processes.FIRST_PAUSE_S = 0.05
def tell(**news):
    os.write(1, (json.dumps(news) + "\\n").encode())
def sleeper(name, *words, **options):
    return Program(name, lambda: [sys.executable, "-c", {SLEEPER!r}, name, *words], **options)
def told(argv, code):
    tell(name=argv[3], what="exit", code=code)
"""


class Scene:
    """A supervisor in a process of its own."""

    def __init__(self, script: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", PRELUDE + script], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self._pipe = self.process.stdout
        self._rest = b""
        self._deadline = time.monotonic() + WITHIN_S
        self.pid_of: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pid_of.values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.kill()
        self.process.wait()
        self._pipe.close()

    def news(self) -> Iterator[dict[str, Any]]:
        """What is told, until every process is gone."""
        while True:
            while b"\n" in self._rest:
                line, self._rest = self._rest.split(b"\n", 1)
                one = json.loads(line)
                if one["what"] == "start":
                    self.pid_of[one["name"]] = one["pid"]
                elif one["what"] == "exit":
                    self.pid_of.pop(one["name"], None)
                yield one
            ready, _, _ = select.select([self._pipe], [], [], max(0.0, self._deadline - time.monotonic()))
            assert ready, "nothing more was told in time"
            data = os.read(self._pipe.fileno(), 65536)
            if not data:
                return
            self._rest += data

    def await_(self, name: str, what: str) -> dict[str, Any]:
        """The next news of this kind from this child."""
        for one in self.news():
            if (one["name"], one["what"]) == (name, what):
                return one
        raise AssertionError(f"every process ended before {name} told {what}")

    def await_all(self, names: Iterable[str], what: str) -> None:
        """Returns once each of these children has told this."""
        missing = set(names)
        for one in self.news():
            if one["what"] == what:
                missing.discard(one["name"])
            if not missing:
                return
        raise AssertionError(f"every process ended before {missing} told {what}")

    def rest(self) -> list[tuple[str, str]]:
        """What is told until the end of all, in order."""
        return [(one["name"], one["what"]) for one in self.news()]


def test_a_child_that_died_is_started_again_and_its_end_is_told() -> None:
    with Scene("Supervisor([sleeper('a', on_exit=told)], grace_s=5).run()") as scene:
        first = scene.await_("a", "start")["pid"]

        os.kill(first, signal.SIGKILL)

        assert scene.await_("a", "exit")["code"] == -signal.SIGKILL
        assert scene.await_("a", "start")["pid"] != first


def test_a_child_that_is_not_to_be_restarted_ends_alone() -> None:
    script = "Supervisor([sleeper('a'), sleeper('once', restart=False, on_exit=told)], grace_s=5).run()"
    with Scene(script) as scene:
        scene.await_all(["once", "a"], "start")
        os.kill(scene.pid_of["once"], signal.SIGTERM)
        scene.await_("once", "exit")

        scene.process.terminate()

        # Then the other was there until the end, and the one never came back
        assert scene.rest() == [("a", "term")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_children_are_stopped_in_reverse_order_one_after_the_other(number: int) -> None:
    script = "Supervisor([sleeper(name, on_exit=told) for name in 'abc'], grace_s=5).run()"
    with Scene(script) as scene:
        scene.await_all("abc", "start")

        scene.process.send_signal(number)

        stops = [one for one in scene.rest() if one[1] != "start"]
        assert stops == [(name, what) for name in "cba" for what in ("term", "exit")]
        assert scene.process.wait() == 0


def test_children_that_do_not_need_each_other_are_stopped_together() -> None:
    # Given one that never ends by itself
    script = "Supervisor([sleeper('a'), sleeper('stubborn', 'stubborn')], grace_s=0.5, together=True).run()"
    with Scene(script) as scene:
        scene.await_all(["a", "stubborn"], "start")

        scene.process.terminate()

        # Then the other was told at the same time, rather than after it
        assert {("a", "term"), ("stubborn", "term")} <= set(scene.rest())
        assert scene.process.wait() == 0


def test_a_child_that_does_not_end_in_time_is_killed() -> None:
    script = "Supervisor([sleeper('a', 'stubborn', on_exit=told)], grace_s=0.2).run()"
    with Scene(script) as scene:
        scene.await_("a", "start")

        scene.process.terminate()

        scene.await_("a", "term")
        assert scene.await_("a", "exit")["code"] == -signal.SIGKILL
        assert scene.rest() == []
        assert scene.process.wait() == 0


def test_ctrl_c_in_the_terminal_reaches_the_supervisor_and_not_the_children() -> None:
    with Scene("Supervisor([sleeper('a', on_exit=told)], grace_s=5).run()") as scene:
        child = scene.await_("a", "start")["pid"]

        # When the child gets the signal that the terminal sends to all
        os.kill(child, signal.SIGINT)
        scene.process.send_signal(signal.SIGINT)

        # Then it ended because the supervisor told it to
        assert scene.rest() == [("a", "term"), ("a", "exit")]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_a_supervisor_that_is_killed_takes_its_children_along() -> None:
    with Scene("Supervisor([sleeper('a'), sleeper('b')], grace_s=5).run()") as scene:
        scene.await_all("ab", "start")

        scene.process.kill()

        # Then both were told, and the pipe ends: nobody is left
        assert {("a", "term"), ("b", "term")} <= set(scene.rest())


def test_an_error_in_on_exit_stops_nothing() -> None:
    script = "Supervisor([sleeper('a', on_exit=lambda argv, code: 1 / 0)], grace_s=5).run()"
    with Scene(script) as scene:
        os.kill(scene.await_("a", "start")["pid"], signal.SIGKILL)

        scene.await_("a", "start")


def test_output_goes_to_the_program_s_log_and_variables_reach_it() -> None:
    script = """
import tempfile
with tempfile.TemporaryDirectory() as place:
    log = Path(place) / "logs" / "a.log"
    code = "import os, sys; print(os.getenv('SHADE'), flush=True); print('oops', file=sys.stderr)"
    supervisor = Supervisor([], grace_s=5)
    def on_exit(argv, code):
        tell(name="a", what="log", text=log.read_text())
        supervisor.stop()
    supervisor.add(Program("a", lambda: [sys.executable, "-c", code], {"SHADE": "amber"}, log, False, on_exit))
    supervisor.run()
"""
    with Scene(script) as scene:
        assert scene.await_("a", "log")["text"] == "amber\noops\n"
        assert scene.rest() == []
