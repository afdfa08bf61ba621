"""The doctor on machines with one fault each: it names the fault and the command that repairs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mindsora import cli
from mindsora.audit import doctor

ROOT = Path(__file__).parents[1]


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    """No Ascend and no settings; probes that would start processes get an immediate answer."""
    for name in (
        "ASCEND_HOME_PATH",
        "ASCEND_TOOLKIT_HOME",
        "ASCEND_RT_VISIBLE_DEVICES",
        "CXX",
        "OMP_NUM_THREADS",
        "MS_DEV_JIT_SYNTAX_LEVEL",
        "GLOG_v",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "NODES", tmp_path / "dev")
    monkeypatch.setattr(doctor, "DRIVER", tmp_path / "version.info")
    monkeypatch.setattr(doctor, "TOOLKIT", tmp_path / "toolkit")
    monkeypatch.setattr(doctor, "free_memory", lambda: 16 * 10**9)
    monkeypatch.chdir(tmp_path)
    answers = {
        "probe": '{"version": "2.10.0", "cards": 0}',
        "kernels": "device CPU\nconv3d: cpu\n  * cpu can run",
        "--version": "g++ 12",
    }

    def run(command):
        key = next(key for key in ("--version", "kernels", "probe") if key in command or key == "probe")
        answer = answers[key](command) if callable(answers[key]) else answers[key]
        if isinstance(answer, Exception):
            return subprocess.CompletedProcess(command, 1, "", str(answer))
        return subprocess.CompletedProcess(command, 0, answer, "")

    monkeypatch.setattr(doctor, "_run", run)
    return answers


def found(name: str) -> doctor.Finding:
    (finding,) = [finding for finding in doctor.examine() if finding.name == name]
    return finding


def wrong(name: str, *words: str) -> None:
    finding = found(name)
    assert finding.state == "wrong" and finding.mend
    assert all(word in f"{finding.found} | {finding.mend}" for word in words), finding


def test_a_healthy_machine(healthy, capsys):
    assert not [finding for finding in doctor.examine() if finding.state == "wrong"]
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "ok     mindspore: 2.10" in out and "ok     NPUs: none" in out and "ok     CANN: none" in out
    assert cli.main(["doctor", "--json"]) == 0
    names = [finding["name"] for finding in json.loads(capsys.readouterr().out)]
    assert {"Python", "mindspore", "numpy", "NPUs", "CANN", "compiler", "kernels", "import order"} <= set(names)
    assert {"memory", "disk", "models"} <= set(names)


@pytest.mark.parametrize("python, fine", [((3, 9, 9), 0), ((3, 10, 0), 1), ((3, 12, 1), 1), ((3, 13, 0), 0)])
def test_python(healthy, monkeypatch, python, fine):
    monkeypatch.setattr(doctor, "sys", type("sys", (), {"version_info": python, "executable": sys.executable}))
    if fine:
        assert found("Python").state == "ok"
    else:
        wrong("Python", f"3.{python[1]}", "3.10", "venv")


@pytest.mark.parametrize(
    "package, version, words",
    [
        ("mindspore", "2.9.0", ["2.9.0", '"mindspore>=2.10,<2.11"']),
        ("mindspore", "2.11.0rc1", ["2.11.0", '"mindspore>=2.10,<2.11"']),
        ("mindspore", None, ["not installed", "pip install"]),
        ("numpy", "2.1.0", ["2.1.0", '"numpy>=1.25,<2"']),
    ],
)
def test_packages(healthy, monkeypatch, package, version, words):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: version if name == package else real(name))
    wrong(package, *words)


def test_missing_packages(healthy, monkeypatch):
    wanted = ["mindspore>=2.10", "no-such-package>=1", "av>=12", 'pytest; extra == "test"']
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    wrong("packages", "no-such-package", "pip install no-such-package")


def cards(count: int) -> None:
    Path("dev").mkdir()
    for number in range(count):
        Path(f"dev/davinci{number}").touch()
    Path("dev/davinci_manager").touch()


def test_cards_without_driver_or_cann(healthy):
    cards(8)
    wrong("driver", "8 NPUs", "install the Ascend driver")
    wrong("CANN", "ASCEND_HOME_PATH", "install CANN")
    Path("toolkit").mkdir()
    Path("toolkit/set_env.sh").touch()
    wrong("CANN", "source", "set_env.sh")
    assert found("NPUs").found == "8"


@pytest.mark.parametrize(
    "version, fine",
    [
        ("8.1.RC1", False),
        ("8.2.RC1", True),
        ("8.3.0", True),
        ("8.4.0", False),
        ("8.5.0.alpha001", True),
        ("9.0.0", True),
        ("9.1.0", True),
        ("9.2.0", False),
        (None, False),
    ],
)
def test_cann(healthy, monkeypatch, version, fine):
    """MindSpore 2.10 accepts 8.2, 8.3, 8.5, 9.0 and 9.1; its file is compiler/version.info."""
    cards(1)
    home = Path("toolkit/latest").absolute()
    (home / "compiler").mkdir(parents=True)
    if version:
        (home / "compiler/version.info").write_text(f"Name=compiler\nVersion={version}\n")
    Path("version.info").write_text("Version=24.1.0\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(home))
    parts = {"PYTHONPATH": "/opp/op_impl/ai_core/tbe", "LD_LIBRARY_PATH": "/x/lib64", "ASCEND_OPP_PATH": "/opp"}
    for name, part in parts.items():
        monkeypatch.setenv(name, part)
    assert found("driver").found == "24.1.0"
    if fine:
        assert found("CANN") == doctor.Finding("CANN", "ok", version)
        monkeypatch.delenv("ASCEND_OPP_PATH")
        wrong("ASCEND_OPP_PATH", "source", "set_env.sh")
    else:
        wrong("CANN", version or "no compiler/version.info")


def test_mindspore_that_does_not_load(healthy):
    healthy["probe"] = ImportError("libgomp-d22c.so.1: cannot allocate memory in static TLS block")
    wrong("MindSpore runs", "static TLS block", "export LD_PRELOAD=")
    healthy["probe"] = ImportError("version `GLIBCXX_3.4.29' not found")
    wrong("MindSpore runs", "GLIBCXX", "libstdc++6")


def test_import_order(healthy):
    """MindSpore imports alone but fails after one package, and the doctor names that package."""
    fine = healthy["probe"]
    healthy["probe"] = lambda command: ImportError("symbol clash") if "import tokenizers" in command[-1] else fine
    wrong("import order", "after tokenizers: symbol clash", "import mindspore before tokenizers")


def test_cards_that_mindspore_does_not_see(healthy):
    cards(2)
    wrong("MindSpore sees NPUs", "none of 2", "GLOG_v")


def test_kernels(healthy):
    healthy["kernels"] = "device CPU\nconv3d: reference\n    cpu cannot run\nqk_norm_rope: cpu"
    assert found("kernels").state == "note" and "conv3d" in found("kernels").found
    healthy["kernels"] = ImportError("MINDSORA_KERNELS asks for conv3d=gpu")
    wrong("kernels", "conv3d=gpu", "unset MINDSORA_KERNELS")


def test_compiler(healthy, monkeypatch):
    assert found("compiler").state == "ok"
    monkeypatch.setenv("CXX", "no-such-compiler")
    healthy["--version"] = FileNotFoundError("no-such-compiler")
    wrong("compiler", "no-such-compiler", "unset CXX")
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert found("compiler").mend == "apt-get install g++"


def test_a_compiler_that_is_none(healthy, monkeypatch):
    monkeypatch.setenv("CXX", 'g++ "')
    wrong("compiler", """CXX='g++ "'""", "no closing quotation", "unset CXX")
    monkeypatch.setenv("CXX", "sh -c true")
    healthy["--version"] = ""
    wrong("compiler", "sh -c true", "is no compiler", "unset CXX")


def test_surroundings(healthy, monkeypatch):
    monkeypatch.setenv("MS_DEV_JIT_SYNTAX_LEVEL", "2")
    assert found("MS_DEV_JIT_SYNTAX_LEVEL").mend == "unset MS_DEV_JIT_SYNTAX_LEVEL"
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert "4096" in found("OMP_NUM_THREADS").found
    Path("numpy.py").touch()
    wrong("working folder", "numpy", "rename")
    monkeypatch.setattr(doctor, "free_memory", lambda: 10**8)
    wrong("memory", "0.1 GB", "mindsora plan")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("usage", (), {"free": 10**6}))
    wrong("disk", "less than 1 GB", "make room")


PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from mindsora.audit import doctor
from mindsora.cli import main
doctor.BEFORE = ("av",)
status = main(["doctor", "--json"])
print("mindspore" in sys.modules, file=sys.stderr)
sys.exit(status)
"""


def test_as_a_program(tmp_path):
    """The real probes run on this machine, from another folder, in a process that does not import MindSpore."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(ROOT)], cwd=tmp_path, capture_output=True, text=True)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert done.stderr.splitlines()[-1] == "False"
    assert findings["MindSpore runs"]["state"] == findings["import order"]["state"] == "ok"
    assert "conv3d" in findings["kernels"]["found"]
    assert done.returncode == any(finding["state"] == "wrong" for finding in findings.values())
