import subprocess
import sys


def test_without_its_libraries_the_trainer_says_what_to_install() -> None:
    script = "import sys; sys.modules.update(torch=None, thop=None); sys.argv = ['x', 'models']; from trainer.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "pip install '.[trainer]'" in done.stderr
    assert "Traceback" not in done.stderr
