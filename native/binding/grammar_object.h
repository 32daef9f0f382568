#pragma once

#include <napi.h>

#include <memory>

#include "binding/js_values.h"
#include "grammar/grammar.h"

namespace filigree::js {

// Constraints (src/native/addon-types.ts):
//   createVocabulary(bytes, offsets, control, ends, stripsLeadingSpace) -> Promise<Vocabulary>
//   vocabulary.compile(program) -> Promise<Grammar>       opaque; an engine's slot takes it
//   new Matcher(grammar, continuation)                    one text under a grammar, without an engine
void define_grammar(Napi::Env env, Napi::Object exports);

// The grammar that a JS value wraps.
std::shared_ptr<grammar::Grammar> grammar_of(const Field& value);

}  // namespace filigree::js
