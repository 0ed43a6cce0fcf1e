"""Is there a Docker engine, and one that answers?"""

import shutil
import subprocess

ANSWER_SECONDS = 10


def docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        asked = subprocess.run(["docker", "info"], check=False, capture_output=True, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0
