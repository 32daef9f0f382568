# By itself: constrained output needs nothing of the engine, so this builds in seconds, sanitized too.
add_executable(filigree_grammar_test
  ${CMAKE_CURRENT_LIST_DIR}/harness.cc
  ${CMAKE_CURRENT_LIST_DIR}/grammar_fixture.cc
  ${CMAKE_CURRENT_LIST_DIR}/test_grammar.cc
  $<TARGET_OBJECTS:filigree_base>
  $<TARGET_OBJECTS:filigree_grammar>)
target_link_libraries(filigree_grammar_test PRIVATE filigree_options Threads::Threads)
target_include_directories(filigree_grammar_test PRIVATE ${CMAKE_CURRENT_LIST_DIR})
