#pragma once

#include <cstddef>
#include <cstdint>

// A grammar as src/grammar/program.ts writes it: 32-bit numbers.
//
//   program  := version rules start (length expression)*      one expression for each rule, `length` numbers long
//   expression, in prefix order:
//     empty                            the empty text
//     never                            nothing at all
//     bytes n b1 .. bn                 these bytes
//     chars n (low high)*n             one character of these code point ranges, ascending, as UTF-8
//     sequence n e1 .. en              one after the other
//     choice n e1 .. en                one of them
//     repeat min max e                 max -1 = without end
//     call rule                        what a rule derives
//     token id                         a control token, which no text can spell
//     both a b                         texts of a that are also texts of b; neither may call a rule
//     without a b                      texts of a that are not texts of b; neither may call a rule
//     separated flags separator n (min max e)*n
//                                      of each item min to max in this order, the separator between any two;
//                                      flags: 1 = nothing follows an item that was left out, 2 = at least one item

namespace filigree::grammar {

enum class Op : int32_t {
  empty = 0,
  never,
  bytes,
  chars,
  sequence,
  choice,
  repeat,
  call,
  token,
  both,
  without,
  separated
};

inline constexpr int32_t kProgramVersion = 1;

// What a grammar may cost. A schema of ordinary size takes about a hundredth of it.
struct Limits {
  static constexpr size_t nodes = 400'000;        // of the automaton
  static constexpr size_t work = 4'000'000;       // expressions visited and characters ranged over
  static constexpr size_t depth = 400;            // of nested expressions
  static constexpr size_t product_states = 6000;  // of an intersection or a difference
  static constexpr size_t rules = 20'000;
  static constexpr size_t states = 60'000;  // deterministic ones, made while running
  static constexpr size_t threads = 400;    // ways to read the text so far
  static constexpr size_t mask_steps = 30'000'000;
  static constexpr uint32_t stack_depth = 256;  // rules inside rules
};

}  // namespace filigree::grammar
