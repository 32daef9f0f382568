"""The unmodified openai package for Python against a server: python openai_client.py URL KEY MODEL"""

import sys

import openai

url, key, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
messages = [{"role": "user", "content": "What is the capital of France?"}]

whole = client.chat.completions.create(
    model=model, messages=messages, temperature=0, max_tokens=20, logprobs=True, top_logprobs=2
)
text = whole.choices[0].message.content
assert "Paris" in text, text
assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2

streamed, usage = "", None
for chunk in client.chat.completions.create(
    model=model, messages=messages, temperature=0, max_tokens=20, stream=True,
    stream_options={"include_usage": True},
):
    streamed += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    usage = chunk.usage or usage
assert streamed == text, (streamed, text)
assert usage.completion_tokens == whole.usage.completion_tokens

batch = client.completions.create(
    model=model, prompt=["The capital of France is", "2+2="], max_tokens=5, temperature=0, logprobs=1, echo=True
)
assert [c.index for c in batch.choices] == [0, 1]
assert batch.choices[0].text.startswith("The capital of France is")
assert batch.choices[0].logprobs.token_logprobs[0] is None

try:
    client.chat.completions.create(model="no-such-model", messages=messages)
    raise SystemExit("an unknown model was served")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error
try:
    client.chat.completions.create(model=model, messages=messages, temperature=7)
    raise SystemExit("a temperature of 7 was taken")
except openai.BadRequestError as error:
    assert "temperature" in str(error), error
print("ok")
