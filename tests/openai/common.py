"""What the scripts share: the server's address, clients of it, and its metrics."""

import faulthandler
import sys
import time
import urllib.request

import openai

URL = sys.argv[1]
MODEL = "quickstart"
CHAT = [{"role": "user", "content": "Tell me about the sea."}]

# A script that hangs says where, and ends.
faulthandler.dump_traceback_later(120, exit=True)


def settings(**changes):
    """What every client is made with: no retries, and every response held against the published types."""
    defaults = {
        "base_url": f"{URL}/v1",
        "api_key": "none",
        "max_retries": 0,
        "timeout": 60,
        "_strict_response_validation": True,
    }
    return {**defaults, **changes}


def client(**changes):
    return openai.OpenAI(**settings(**changes))


def metric(name):
    """The sum of a metric's samples."""
    with urllib.request.urlopen(f"{URL}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    samples = [line for line in lines if line.startswith(name + "{")]
    assert samples, f"no metric {name}"
    return sum(float(line.rsplit(" ", 1)[1]) for line in samples)


def wait_for(what, holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.01)


def run(scope):
    """Calls every `check_..` function of a script, and names the one that fails."""
    checks = [(name, check) for name, check in scope.items() if name.startswith("check_")]
    assert checks
    for name, check in checks:
        started = time.monotonic()
        print(f"{name} ..", flush=True)
        check()
        print(f"{name} {time.monotonic() - started:.2f} s", flush=True)
