"""What is installed without a clone: the losses with torch alone, the commands with their extra."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

pytestmark = pytest.mark.slow
UV = Path(sys.executable).with_name("uv")


def output(*command, cwd, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("W2SNB_", "PYTHON"))}
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=kept | environment, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def install(tmp_path_factory):
    """Install the wheel, with an extra, in an empty environment; the folder of its programs."""
    folder = tmp_path_factory.mktemp("wheel")
    output(UV, "build", "--wheel", "-q", "-o", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")

    def make(extra):
        environment = folder / f"environment{extra}"
        output(UV, "venv", "-q", environment, cwd=folder)
        output(UV, "pip", "install", "-q", "-p", environment, f"{wheel}{extra}", "-c", ROOT / "requirements.txt", cwd=folder)
        return environment / "bin"

    return make


def test_the_losses_need_torch_only(install, tmp_path):
    bin = install("")
    code = "import torch, w2snb.losses as l; print(l.method_loss('acd', torch.zeros(2, 3), torch.zeros(2, 3)).item() > 0); "
    code += "import w2snb\ntry: w2snb.run\nexcept ModuleNotFoundError as e: print(e)"
    shown = output(bin / "python", "-c", code, cwd=tmp_path).splitlines()
    assert shown[0] == "True" and shown[1].startswith("w2snb.run needs ") and shown[1].endswith("pip install 'w2snb[notebooks]'")


def test_the_commands_work_without_a_clone(install, tmp_path):
    bin, env = install("[notebooks]"), dict(W2SNB_STORE=str(tmp_path / "store"), OMP_NUM_THREADS="1")
    code = "from w2snb import EXPERIMENTS, METHODS, run; import w2snb; print(w2snb.__file__); print(run('digits', epochs=1, train_size=64, progress=False).status)"
    file, status = output(bin / "python", "-c", code, cwd=tmp_path, **env).splitlines()
    assert str(ROOT) not in file and status in ("ok", "collapsed")
    assert "1 done, 0 to do" in output(bin / "w2snb_sweep", "digits", "--methods", "soft_ce", "--seeds", "0", "epochs=1", "train_size=64", cwd=tmp_path, **env)
    output(bin / "w2snb_report", "digits_labels", cwd=tmp_path, **env)
    page = (tmp_path / "reports" / "report" / "report.html").read_text()
    assert "AdaptConf" in page and len(list((tmp_path / "store").glob("*.json"))) == 2
