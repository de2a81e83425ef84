"""Under load: the same answers as alone, and whoever finds the queue full is told when to come back, and comes."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
from common import CHAT, MODEL, client, metric, run, settings, wait_for

# The queue holds 64 requests behind 8 that run, and each call is 8 of them: 9 calls fit, the others come again.
N_CALLS = 14
N_TOKENS = 64
LONG = {"model": MODEL, "n": 8, "max_tokens": N_TOKENS, "extra_body": {"ignore_eos": True}}


def long_prompt(at):
    return f"{at}. " + "The sea is deep and the sky is high. " * 30


def check_answers_do_not_depend_on_load():
    asked = [
        {"messages": CHAT, "seed": 11, "temperature": 1.2, "max_tokens": 48},
        {"messages": CHAT, "temperature": 0, "max_tokens": 48},
        {"messages": CHAT, "seed": 12, "logprobs": True, "top_logprobs": 2, "max_tokens": 32},
        {"messages": [{"role": "user", "content": long_prompt(0)}], "seed": 13, "top_p": 0.9, "max_tokens": 48},
        {"messages": CHAT, "seed": 14, "n": 2, "frequency_penalty": 1, "max_tokens": 32},
    ]
    alone_client = client()
    alone = [choices(alone_client, it) for it in asked]
    assert alone == [choices(alone_client, it) for it in asked], "warm equals cold"

    async def together():
        async with openai.AsyncOpenAI(**settings(max_retries=5)) as crowd:
            noise = [
                crowd.completions.create(**LONG, prompt=long_prompt(100 + at), temperature=2) for at in range(3)
            ]
            again = [crowd.chat.completions.create(model=MODEL, **it) for it in asked * 4]
            answers = await asyncio.gather(*again, *noise)
            return [answer.model_dump()["choices"] for answer in answers[: len(again)]]

    assert asyncio.run(together()) == alone * 4


def choices(client, asked):
    return client.chat.completions.create(model=MODEL, **asked).model_dump()["choices"]


def check_a_flood_is_told_when_to_retry():
    """Every call ends well, none comes back before the time it was given, and health stays good."""
    refusals = []
    lock = threading.Lock()
    rejected = metric("vllm:admission_rejections_total")

    def one(at):
        last_refusal = None

        def before(_request):
            if last_refusal is not None:
                waited = time.monotonic() - last_refusal[0]
                assert waited >= last_refusal[1], f"came back after {waited} s instead of {last_refusal[1]} s"

        def after(response):
            nonlocal last_refusal
            if response.status_code == 429:
                last_refusal = (time.monotonic(), int(response.headers["retry-after"]))
                with lock:
                    refusals.append(last_refusal[1])

        hooks = {"request": [before], "response": [after]}
        with httpx2.Client(event_hooks=hooks, trust_env=False, timeout=60) as http:
            eager = client(max_retries=30, http_client=http)
            return eager.completions.create(**LONG, prompt=long_prompt(at))

    with ThreadPoolExecutor(N_CALLS) as threads:
        flood = [threads.submit(one, at) for at in range(N_CALLS)]
        refused_at_once()
        answers = [call.result() for call in flood]
    assert all(answer.usage.completion_tokens == 8 * N_TOKENS for answer in answers)
    assert refusals and min(refusals) >= 1 and max(refusals) <= 60, refusals
    assert metric("vllm:admission_rejections_total") - rejected == len(refusals) + 1
    assert metric("vllm:num_requests_waiting") == metric("vllm:num_requests_running") == 0


def refused_at_once():
    """Who does not retry gets the client's exception for it."""
    wait_for("the full queue", lambda: metric("vllm:num_requests_waiting") > 64 - 8)
    with client() as once:
        try:
            once.completions.create(**LONG, prompt="x")
        except openai.RateLimitError as error:
            assert (error.status_code, error.code, error.type) == (429, "overloaded", "rate_limit_error")
            assert int(error.response.headers["retry-after"]) >= 1
            assert "x-should-retry" not in error.response.headers
        else:
            raise AssertionError("a full queue took a call")



run(globals())
