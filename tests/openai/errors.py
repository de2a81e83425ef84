"""Every refusal is the exception that the client has for it, names its field, and is asked for once."""

import openai
from common import CHAT, MODEL, client, metric, run

# With retries, as people have them: what cannot succeed must not be tried again.
patient = client(max_retries=3)


def refused(kind, status, call, **asked):
    before = openai_requests()
    try:
        call(**asked)
    except kind as error:
        assert type(error) is kind, repr(error)
        assert error.status_code == status and error.type == "invalid_request_error", repr(error)
        assert set(error.body) == {"message", "type", "param", "code"} and error.body["message"]
        assert error.response.headers["x-should-retry"] == "false"
        assert error.request_id
        assert openai_requests() == before + 1, "asked for once"
        return error
    raise AssertionError(f"not refused: {asked}")


n_sent = 0


def openai_requests():
    return n_sent


def count(_request):
    global n_sent
    n_sent += 1


patient._client.event_hooks["request"].append(count)


def check_fields():
    chat, text = patient.chat.completions.create, patient.completions.create
    chats = [
        ("temperature", {"temperature": 3}),
        ("top_p", {"top_p": 2}),
        ("n", {"n": 1000}),
        ("max_tokens", {"max_tokens": 100_000}),
        ("min_tokens", {"max_tokens": 2, "extra_body": {"min_tokens": 3}}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        ("logit_bias", {"logit_bias": {"999999": 1}}),
        ("stop", {"stop": list("abcde")}),
        ("messages", {"messages": []}),
        ("messages[0].content[0].type", {"messages": [image()]}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}),
        ("presence_penalty", {"presence_penalty": -3}),
    ]
    for param, asked in chats:
        error = refused(openai.BadRequestError, 400, chat, **{"model": MODEL, "messages": CHAT, **asked})
        assert error.param == param and param in error.message, (param, error.body)
    texts = [
        ("prompt", {"prompt": [5] * 5000}),
        ("prompt", {"prompt": [[1, 2], [-1]]}),
        ("prompt", {"prompt": ["a"] * 1000}),
        ("logprobs", {"prompt": "x", "logprobs": 99}),
        ("suffix", {"prompt": "x", "suffix": "y"}),
        ("best_of", {"prompt": "x", "best_of": 3}),
    ]
    for param, asked in texts:
        error = refused(openai.BadRequestError, 400, text, **{"model": MODEL, **asked})
        assert error.param == param, (param, error.body)
    too_long = [{"role": "user", "content": "word " * 2000}]
    error = refused(openai.BadRequestError, 400, chat, model=MODEL, messages=too_long)
    assert (error.code, error.param) == ("context_length_exceeded", "messages")


def image():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    return {"role": "user", "content": [part]}


def check_a_stream_is_refused_before_it_begins():
    asked = {"model": MODEL, "messages": CHAT, "stream": True, "temperature": -1}
    assert refused(openai.BadRequestError, 400, patient.chat.completions.create, **asked).param == "temperature"


def check_unknown_models():
    for call, asked in [
        (patient.chat.completions.create, {"model": "gpt-9", "messages": CHAT}),
        (patient.completions.create, {"model": "gpt-9", "prompt": "x"}),
        (patient.models.retrieve, {"model": "gpt-9"}),
    ]:
        error = refused(openai.NotFoundError, 404, call, **asked)
        assert (error.code, error.param) == ("model_not_found", "model")


def check_routes_that_were_not_built():
    error = refused(openai.NotFoundError, 404, patient.embeddings.create, model=MODEL, input="x")
    assert error.code == "not_found"
    error = refused(openai.NotFoundError, 404, patient.responses.create, model=MODEL, input="x")
    assert error.code == "not_found"


def check_a_body_that_is_too_large():
    large = [{"role": "user", "content": "a" * 1_000_000}]
    asked = {"model": MODEL, "messages": large}
    error = refused(openai.APIStatusError, 413, patient.chat.completions.create, **asked)
    assert error.code == "body_too_large"


def check_nothing_was_computed():
    assert metric("vllm:generation_tokens_total") == 0


run(globals())
