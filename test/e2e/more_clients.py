"""Unmodified Python clients against a server: openai's newer routes, anthropic, LangChain. Usage: URL KEY MODEL."""

import sys

import anthropic
import openai
from langchain_openai import ChatOpenAI

url, key, model = sys.argv[1:]
QUESTION = "What is the capital of France? Answer in one word."

client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
response = client.responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=20)
assert "Paris" in response.output_text, response
again = client.responses.create(model=model, input="And of Italy?", previous_response_id=response.id, max_output_tokens=20)
assert again.previous_response_id == response.id
assert client.responses.retrieve(response.id).output_text == response.output_text
with client.responses.stream(model=model, input=QUESTION, temperature=0, max_output_tokens=20) as stream:
    text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
    assert stream.get_final_response().output_text == text == response.output_text
client.responses.delete(response.id)
try:
    client.responses.retrieve(response.id)
    raise AssertionError("a deleted response is still there")
except openai.NotFoundError:
    pass

# The client asks for base64 by itself.
one, two, far = (d.embedding for d in client.embeddings.create(model=model, input=["a river in France", "a French river", "int main() {}"]).data)
dot = lambda a, b: sum(x * y for x, y in zip(a, b))
assert abs(dot(one, one) - 1) < 1e-4
assert dot(one, two) > dot(one, far), (dot(one, two), dot(one, far))

claude = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
question = [{"role": "user", "content": QUESTION}]
message = claude.messages.create(model=model, max_tokens=20, messages=question, extra_body={"temperature": 0})
assert "Paris" in message.content[0].text and message.stop_reason == "end_turn", message
with claude.messages.stream(model=model, max_tokens=20, messages=question, extra_body={"temperature": 0}) as stream:
    assert "".join(stream.text_stream) == message.content[0].text
counted = claude.messages.count_tokens(model=model, messages=question).input_tokens
assert counted == message.usage.input_tokens + message.usage.cache_read_input_tokens, (counted, message.usage)
try:
    claude.messages.create(model="none", max_tokens=1, messages=question)
    raise AssertionError("an unknown model is served")
except anthropic.NotFoundError as error:
    assert error.body["error"]["type"] == "not_found_error", error.body

chain = ChatOpenAI(base_url=f"{url}/v1", api_key=key, model=model, temperature=0, max_tokens=20)
assert "Paris" in chain.invoke(QUESTION).content
assert "Paris" in "".join(chunk.content for chunk in chain.stream(QUESTION))
print("ok")
