"""A client that leaves: its sequences end at once, and their places and blocks are free."""

import asyncio

import openai
from common import MODEL, client, metric, run, settings, wait_for

LONG = {"model": MODEL, "n": 8, "max_tokens": 256, "prompt": "The sea is " * 90, "extra_body": {"ignore_eos": True}}
N_TOKENS = 8 * 256
# OpenAI's type of a completion's event has no null `finish_reason`, its servers send one.
LENIENT = {"_strict_response_validation": False}


def left_early(leave):
    """Leaves until it was done before the answer's end: the server may be faster than this script."""
    for _ in range(10):
        aborted, made = metric("savile_aborted_total"), metric("vllm:generation_tokens_total")
        leave()
        wait_for("the end of its sequences", lambda: metric("vllm:num_requests_running") == 0)
        assert metric("vllm:num_requests_waiting") == 0
        n_aborted = metric("savile_aborted_total") - aborted
        if n_aborted == 8:
            n_made = metric("vllm:generation_tokens_total") - made
            assert n_made < N_TOKENS, f"{n_made} tokens were made for nobody"
            served_again()
            return
    raise AssertionError("no answer was left before its end")


def served_again():
    with client() as other:
        answer = other.completions.create(model=MODEL, prompt="x", n=8, max_tokens=4, extra_body={"ignore_eos": True})
        assert answer.usage.completion_tokens == 32
    wait_for("free blocks", lambda: metric("vllm:kv_cache_usage_perc") <= idle_usage)


def check_a_stream():
    def leave():
        with client(**LENIENT) as leaver, leaver.completions.create(**LONG, stream=True) as stream:
            for _ in range(3):
                next(stream)

    left_early(leave)


def check_an_async_stream():
    async def leave():
        async with openai.AsyncOpenAI(**settings(**LENIENT)) as leaver:
            stream = await leaver.completions.create(**LONG, stream=True)
            async for _ in stream:
                break
            await stream.close()

    left_early(lambda: asyncio.run(leave()))


def check_a_whole_answer():
    def leave():
        with client(timeout=0.2) as leaver:
            try:
                leaver.completions.create(**LONG)
            except openai.APITimeoutError:
                pass

    left_early(leave)


with client() as first:
    first.completions.create(model=MODEL, prompt="x", max_tokens=1)
idle_usage = metric("vllm:kv_cache_usage_perc")
run(globals())
