"""Two of schemathesis's checks, each without the one case that no OpenAPI document can tell.

Takes the place of `positive_data_acceptance` and `ensure_resource_availability`, which are excluded on the command line.
"""

import re

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.specs.openapi import checks

# A body that keeps to the document may still be refused where two of its values are compared, where one names what another
# must hold, where a text is in a language of its own, or where only the tokenizer knows how long it is. Two relations could be
# told (`ignore_eos`, `top_logprobs`), but are one alternative more than schemathesis can enumerate. By route and what is said.
UNTOLD = {
    r"POST /v1/(chat/completions|completions|responses|messages)": [
        r"This model's maximum context length is \d+ tokens",
        r"'min_tokens' is \d+, more than the \d+ tokens that the answer may have",
        r"'ignore_eos' excludes '",
        # JSON Schema, regular expressions and grammars: those that cannot be honoured.
        r"'?(structured_outputs\.(json|regex|choice|grammar)|response_format\.json_schema\.schema|text\.format\.schema)\b",
    ],
    r"POST /v1/(embeddings|messages/count_tokens)": [r"This model's maximum context length is \d+ tokens"],
    r"POST /v1/completions": [r"'best_of' (is \d+, fewer than 'n'|cannot be streamed beyond 'n')"],
    r"POST /(v1/.*|tokenize|apply-template)": [
        r"'tool_choice' names the function '.*', which is not in 'tools'",
        r"'?tools\[\d+\]\.function\.parameters\b",
        r"\.function\.arguments' is not JSON",
    ],
    r"POST /v1/chat/completions": [r"'top_logprobs' needs 'logprobs': true"],
    r"POST /v1/responses": [r"The response '\w+' is still being written"],
    r"POST /v1/responses/\{id\}/cancel": [r"Only a response made with background: true can be cancelled"],
}

def untold(operation: str, said: str) -> bool:
    return any(
        re.search(reason, said)
        for route, reasons in UNTOLD.items()
        if re.fullmatch(route, operation)
        for reason in reasons
    )


@schemathesis.check
def accepts_what_the_document_tells(ctx, response, case):
    try:
        return checks.positive_data_acceptance(ctx, response, case)
    except Failure:
        if response.status_code == 400:
            error = response.json()["error"]
            if untold(case.operation.label, error["message"]):
                return None
        raise


@schemathesis.check
def keeps_what_it_was_told_to_store(ctx, response, case):
    try:
        return checks.ensure_resource_availability(ctx, response, case)
    except Failure:
        parent = ctx.internals.find_parent(case_id=case.id)
        # The id of an answer that nobody was to keep.
        if isinstance(parent.body, dict) and parent.body.get("store") is False:
            return None
        raise
