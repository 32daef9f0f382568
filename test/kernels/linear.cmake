target_sources(filigree_kernel_test PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/linear_fixture.cc
  ${CMAKE_CURRENT_LIST_DIR}/test_linear.cc
  ${CMAKE_CURRENT_LIST_DIR}/test_pack.cc)
