"""A server with keys answers those who have one, and says to others what is missing."""

import urllib.error
import urllib.request

import openai
from common import CHAT, MODEL, URL, client, run


def status(path, key=None):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(URL + path, headers=headers), timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def check_clients():
    for key in ("alpha", "beta"):
        with client(api_key=key) as known:
            answer = known.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=1)
            assert answer.usage.completion_tokens == 1
            assert len(list(known.models.list())) == 1
    with client(api_key="gamma", max_retries=3) as stranger:
        for call in (
            lambda: stranger.chat.completions.create(model=MODEL, messages=CHAT),
            lambda: stranger.completions.create(model=MODEL, prompt="x", stream=True),
            lambda: stranger.models.list(),
        ):
            try:
                call()
            except openai.AuthenticationError as error:
                assert (error.status_code, error.code) == (401, "invalid_api_key")
                assert error.response.headers["www-authenticate"] == "Bearer"
            else:
                raise AssertionError("a stranger was served")


def check_routes():
    assert status("/health") == 200
    for path in ("/metrics", "/version", "/v1/models", "/tokenize", "/nowhere"):
        assert status(path) == status(path, "gamma") == 401, path
    assert status("/metrics", "alpha") == status("/v1/models", "beta") == 200


run(globals())
