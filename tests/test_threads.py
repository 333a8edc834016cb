"""Thread settings of the command line: which are set, when, and which are kept."""

import json
import os
import platform
import subprocess
import sys

import pytest

from sasa import threads

LINUX = sys.platform == "linux" and platform.machine() in threads.SYSTEM_CALLS
SHOW = "import json, os, torch; print(json.dumps([dict(os.environ), torch.get_num_threads()]))"


def python(code, **variables):
    """The last line that a fresh Python prints, from JSON; OpenMP's variables are those given."""
    kept = {k: v for k, v in os.environ.items() if k not in (threads.SPIN_COUNT, threads.WAIT_POLICY, threads.THREADS)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**kept, **variables}
    )
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("environment", "cores", "affinity", "added"),
    [
        ({}, 2, 2, {"GOMP_SPINCOUNT": "10000"}),
        ({"GOMP_SPINCOUNT": "7"}, 2, 2, {}),
        ({"OMP_WAIT_POLICY": "active"}, 2, 2, {}),
        ({"OMP_NUM_THREADS": "1"}, 2, 2, {"GOMP_SPINCOUNT": "10000"}),  # as torchrun sets it
        ({}, 2, 64, {"GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": "2"}),  # a quota
        ({"OMP_NUM_THREADS": "8", "GOMP_SPINCOUNT": "0"}, 2, 64, {}),
    ],
)
def test_variables_are_set_and_the_users_own_value_wins(environment, cores, affinity, added):
    assert threads.settings(environment, cores, affinity) == added


def test_the_command_sets_it_before_torch_is_imported():
    """The stand-in for torch records the environment when it is imported."""
    code = (
        "import json, os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch':\n"
        "            print(json.dumps(os.environ.get('GOMP_SPINCOUNT')), flush=True)\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['sasa', 'doctor']\n"
        "from sasa.cli.main import main; main()\n"
    )
    assert python(code) == str(threads.SPINS)
    assert python(code, GOMP_SPINCOUNT="5") == "5"


def test_importing_sasa_does_not_change_the_process():
    names = "import sasa\nfor name in sasa.__all__: getattr(sasa, name)\n"
    turn = "from sasa.threads import scheduling; a = scheduling(); print(json.dumps(a and a.runtime))"
    before, after = python(SHOW), python(names + SHOW)
    assert before == after
    assert python("import json\n" + turn) == python(names + "import json\n" + turn)


def test_nothing_is_set_if_torch_is_already_imported(monkeypatch):
    """Nothing is changed where torch is imported already, as in this process."""
    monkeypatch.delenv(threads.SPIN_COUNT, raising=False)
    monkeypatch.setattr(threads, "request_turns", lambda nanoseconds: pytest.fail("turns were asked for"))
    before = dict(os.environ)
    threads.prepare()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "1:cpu:/a\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            {
                "proc/self/cgroup": "1:name=systemd:/\n0::/job/step\n",
                "sys/fs/cgroup/job/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/job/step/cpu.max": "max 100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/job/step/cpu.max": "50000 100000\n",
            },
            0.5,
        ),
    ],
)
def test_the_quota_of_a_control_group(tmp_path, files, quota):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert threads.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (1.5, 2), (0.2, 1), (64.0, 8)])
def test_cores_are_affinity_or_a_smaller_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(threads, "affinity", lambda: 8)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.cores() == cores


@pytest.mark.skipif(not LINUX, reason="the system calls of Linux")
def test_only_the_time_slice_of_the_scheduling_changes():
    code = (
        "import json, os\n"
        "from sasa import threads\n"
        "names = [name for name, _ in threads.SchedulingAttributes._fields_]\n"
        "show = lambda: {name: getattr(threads.scheduling(), name) for name in names}\n"
        "os.nice(3)\n"
        "before = show()\n"
        "took = threads.request_turns(200_000)\n"
        "print(json.dumps([took, before, show()]))\n"
    )
    took, before, after = python(code)
    assert took
    assert before["nice"] == after["nice"] >= 3
    assert after["runtime"] in (200_000, 0)  # Linux before 6.12 has none
    assert {**before, "runtime": 0} == {**after, "runtime": 0}


@pytest.mark.skipif(not LINUX, reason="the system calls of Linux")
def test_a_thread_with_another_policy_is_left_alone():
    code = (
        "import json, os\n"
        "from sasa import threads\n"
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n"
        "print(json.dumps([threads.request_turns(200_000), threads.scheduling().policy == os.SCHED_BATCH]))\n"
    )
    assert python(code) == [False, True]


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({}, "OpenMP's default"),
        ({"OMP_WAIT_POLICY": "passive"}, "passive (OMP_WAIT_POLICY)"),
        ({"GOMP_SPINCOUNT": "9"}, "at most 9 checks of a barrier, then sleep (GOMP_SPINCOUNT)"),
        (
            {"GOMP_SPINCOUNT": "9", "OMP_WAIT_POLICY": "active"},
            "at most 9 checks of a barrier, then sleep (GOMP_SPINCOUNT)",
        ),
    ],
)
def test_doctor_describes_the_settings_in_effect(environment, text):
    assert threads.waiting(environment) == text


def test_the_doctor_of_a_new_process_reports_the_settings_of_the_commands():
    code = "import sys; from sasa.cli.main import main; sys.argv = ['sasa', 'doctor', '--json']; main()"
    kept = {k: v for k, v in os.environ.items() if k not in (threads.SPIN_COUNT, threads.WAIT_POLICY)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept)
    found = json.loads(result.stdout)["threads"]
    assert found["waiting"].startswith("at most 10000 checks")
    assert found["cores"] == threads.cores()
    assert set(found) == {"torch", "cores", "waiting", "turns", "load"}
