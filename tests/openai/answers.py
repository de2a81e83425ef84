"""Chat, completions and models: shapes, streams, and every parameter that changes an answer."""

import asyncio

import openai
from common import CHAT, MODEL, client, run, settings

# The model greets back in a few words.
HELLO = [{"role": "user", "content": "Hello"}]

strict = client()
# OpenAI's types give `finish_reason` of a streamed completion no null, its servers send one in all events but the
# last, and clients rely on that. The same holds for the first entry of the log probabilities of an echo.
lenient = client(_strict_response_validation=False)


def chat(client=strict, **asked):
    return client.chat.completions.create(**{"model": MODEL, "messages": CHAT, "max_tokens": 24, **asked})


def complete(client=strict, **asked):
    return client.completions.create(**{"model": MODEL, "prompt": "The sea is", "max_tokens": 24, **asked})


def text_of(answer):
    return answer.choices[0].message.content


def check_models():
    models = strict.models.list()
    assert [model.id for model in models] == [MODEL]
    assert strict.models.retrieve(MODEL) == models.data[0]
    assert models.data[0].object == "model" and models.data[0].max_model_len >= 256


def check_chat():
    answer = chat()
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint.startswith("savile-")
    assert (choice.index, choice.message.role, choice.message.refusal, choice.logprobs) == (0, "assistant", None, None)
    assert choice.finish_reason in ("stop", "length") and choice.message.tool_calls is None
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens <= 24
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens
    assert usage.completion_tokens_details.reasoning_tokens == 0


def check_messages_of_every_role():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "Three."},
        {"role": "user", "content": "Four \U0001f642 äöü 世界", "name": "ann"},
    ]
    text = chat(messages=messages, temperature=0)
    as_developer = [{"role": "developer", "content": "Be brief."}, *messages[1:]]
    assert text_of(text) == text_of(chat(messages=as_developer, temperature=0))


def check_chat_stream():
    whole = chat(seed=5)
    chunks = list(chat(seed=5, stream=True, stream_options={"include_usage": True}))
    *events, usage = chunks
    assert usage.choices == [] and usage.usage.completion_tokens == whole.usage.completion_tokens
    assert all(event.usage is None and len(event.choices) == 1 for event in events)
    deltas = [event.choices[0].delta for event in events]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert all(delta.role is None for delta in deltas[1:])
    assert "".join(delta.content or "" for delta in deltas) == text_of(whole)
    reasons = [event.choices[0].finish_reason for event in events]
    assert reasons[:-1] == [None] * (len(reasons) - 1) and reasons[-1] == whole.choices[0].finish_reason
    assert deltas[-1].content is None, "the last event holds no text"
    assert len({(event.id, event.created) for event in chunks}) == 1
    plain = list(chat(seed=5, stream=True))
    assert all(event.usage is None and event.choices for event in plain)


def check_streaming_helper():
    # The helper takes an answer that was cut for a failure, so this one ends by itself.
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 100, "temperature": 0}
    whole = chat(**asked)
    with strict.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert text_of(final) == text_of(whole)


def check_completions():
    answer = complete(seed=1)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].finish_reason in ("stop", "length")
    chunks = list(complete(lenient, seed=1, stream=True, stream_options={"include_usage": True}))
    *events, usage = chunks
    assert usage.choices == [] and usage.usage.total_tokens == answer.usage.total_tokens
    assert "".join(event.choices[0].text for event in events) == answer.choices[0].text
    assert events[-1].choices[0].finish_reason == answer.choices[0].finish_reason and events[-1].choices[0].text == ""
    assert all(event.choices[0].finish_reason is None for event in events[:-1])


def check_forms_of_a_prompt():
    text = complete(temperature=0, extra_body={"return_token_ids": True})
    ids = text.choices[0].prompt_token_ids
    assert text.usage.prompt_tokens == len(ids)
    expected = text.choices[0].text
    for prompt, n in [(["The sea is"] * 2, 2), (ids, 1), ([ids] * 3, 3)]:
        answer = complete(prompt=prompt, temperature=0)
        assert [choice.text for choice in answer.choices] == [expected] * n
        assert [choice.index for choice in answer.choices] == list(range(n))
        assert answer.usage.prompt_tokens == n * len(ids)
    echoed = complete(temperature=0, echo=True).choices[0].text
    assert echoed == "The sea is" + expected


def check_choices_and_seeds():
    first, again, other = (chat(n=3, seed=seed, temperature=1.5) for seed in (7, 7, 8))
    texts = [[choice.message.content for choice in answer.choices] for answer in (first, again, other)]
    assert texts[0] == texts[1] and texts[0] != texts[2]
    assert len(set(texts[0])) == 3, "choices of one call differ"
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert text_of(chat(seed=7, temperature=1.5)) == texts[0][0], "the first choice is the same for any n"
    streamed = [""] * 3
    for event in chat(n=3, seed=7, temperature=1.5, stream=True):
        streamed[event.choices[0].index] += event.choices[0].delta.content or ""
    assert streamed == texts[0]
    unseeded = {text_of(chat(temperature=1.5)) for _ in range(4)}
    assert len(unseeded) > 1, "without a seed answers differ"


def check_chat_logprobs():
    asked = {"logprobs": True, "top_logprobs": 4, "temperature": 0, "max_tokens": 8}
    content = chat(**asked).choices[0].logprobs.content
    assert 1 <= len(content) <= 8
    for token in content:
        assert token.logprob <= 0 and bytes(token.bytes).decode(errors="replace") == token.token
        top = [rival.logprob for rival in token.top_logprobs]
        assert len(top) == 4 and top == sorted(top, reverse=True)
        assert token.top_logprobs[0].token == token.token, "greedy takes the likeliest"
    streamed = [event.choices[0].logprobs for event in chat(**asked, stream=True)]
    assert [token for logprobs in streamed if logprobs for token in logprobs.content] == content
    assert chat(logprobs=True, max_tokens=1).choices[0].logprobs.content[0].top_logprobs == []


def check_completion_logprobs():
    answer = complete(logprobs=3, temperature=0, max_tokens=6).choices[0]
    lists = answer.logprobs
    n = len(lists.tokens)
    assert n == len(lists.token_logprobs) == len(lists.top_logprobs) == len(lists.text_offset) <= 6
    assert "".join(lists.tokens).startswith(answer.text.rstrip("\ufffd"))
    for name, logprob, top in zip(lists.tokens, lists.token_logprobs, lists.top_logprobs):
        assert max(top.values()) == top[name] == logprob
    echo = complete(lenient, logprobs=1, echo=True, max_tokens=1, extra_body={"return_token_ids": True}).choices[0]
    assert echo.logprobs.token_logprobs[0] is None and all(value <= 0 for value in echo.logprobs.token_logprobs[1:])
    assert len(echo.logprobs.tokens) == len(echo.prompt_token_ids) + 1


def check_stop():
    asked = {"temperature": 0, "max_tokens": 64, "extra_body": {"ignore_eos": True}}
    text = text_of(chat(**asked))
    stop = text[len(text) // 2 :][:3]
    for stops in (stop, [stop, "\u0001"]):
        choice = chat(**asked, stop=stops).choices[0]
        assert (choice.message.content, choice.finish_reason) == (text[: text.index(stop)], "stop")
        assert choice.stop_reason == stop
    streamed = list(chat(**asked, stop=stop, stream=True))
    assert "".join(event.choices[0].delta.content or "" for event in streamed) == text[: text.index(stop)]


def check_bias_and_penalties():
    ids = complete(temperature=0, extra_body={"return_token_ids": True, "ignore_eos": True}).choices[0].token_ids
    forced = complete(logit_bias={str(ids[0]): -100}, temperature=0, extra_body={"return_token_ids": True})
    assert ids[0] not in forced.choices[0].token_ids
    only = {"logit_bias": {"1000": 100}, "temperature": 0, "max_tokens": 12}
    assert complete(**only, extra_body={"return_token_ids": True}).choices[0].token_ids == [1000] * 12
    plain = complete(temperature=0, max_tokens=64).choices[0].text
    for penalty in ({"frequency_penalty": 2}, {"presence_penalty": 2}, {"extra_body": {"repetition_penalty": 2}}):
        assert complete(temperature=0, max_tokens=64, **penalty).choices[0].text != plain, penalty


def check_extensions():
    greedy = complete(temperature=0, max_tokens=12).choices[0].text
    for narrow in ({"top_k": 1}, {"min_p": 1}):
        assert complete(temperature=2, max_tokens=12, seed=3, extra_body=narrow).choices[0].text == greedy
    assert complete(temperature=2, max_tokens=12, seed=3, top_p=0).choices[0].text == greedy
    every = {"ignore_eos": True, "return_token_ids": True}
    answer = chat(max_tokens=200, temperature=0, extra_body=every)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 200
    assert len(answer.choices[0].token_ids) == 200
    assert len(answer.choices[0].prompt_token_ids) == answer.usage.prompt_tokens
    short = chat(messages=HELLO, max_tokens=200, temperature=0)
    n_short = short.usage.completion_tokens
    assert short.choices[0].finish_reason == "stop" and n_short < 100
    longer = chat(messages=HELLO, max_tokens=200, temperature=0, extra_body={"min_tokens": n_short + 20})
    assert longer.usage.completion_tokens >= n_short + 20
    events = list(chat(max_tokens=20, temperature=0, stream=True, extra_body=every))
    ids = [token for event in events for token in event.choices[0].token_ids]
    assert ids == answer.choices[0].token_ids[:20]
    assert events[0].choices[0].prompt_token_ids == answer.choices[0].prompt_token_ids
    stopped = chat(max_tokens=20, temperature=0, extra_body={**every, "stop_token_ids": [ids[5]]})
    assert stopped.choices[0].token_ids == ids[: ids.index(ids[5]) + 1]
    assert (stopped.choices[0].finish_reason, stopped.choices[0].stop_reason) == ("stop", ids[5])


def check_what_is_ignored_is_named():
    raw = strict.chat.completions.with_raw_response.create(
        model=MODEL, messages=CHAT, max_tokens=1, user="ann", store=False, metadata={"a": "b"},
        max_completion_tokens=1, extra_headers={"x-request-id": "sea-1"},
    )
    assert set(raw.headers["x-ignored-fields"].split(", ")) == {"user", "store", "metadata"}
    assert raw.headers["x-request-id"] == raw.parse()._request_id == "sea-1"


def check_async_client():
    async def ask():
        async with openai.AsyncOpenAI(**settings()) as client:
            create = client.chat.completions.create
            asked = [{"model": MODEL, "messages": CHAT, "max_tokens": 24, "seed": seed} for seed in range(6)]
            answers = await asyncio.gather(*(create(**it) for it in asked))
            streams = await asyncio.gather(*(create(**it, stream=True) for it in asked))
            texts = []
            for stream in streams:
                texts.append("".join([event.choices[0].delta.content or "" async for event in stream]))
            assert texts == [text_of(answer) for answer in answers]
            assert [model.id async for model in client.models.list()] == [MODEL]

    asyncio.run(ask())


run(globals())
