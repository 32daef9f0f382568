target_sources(filigree_kernel_test PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/linear_fixture.cc
  ${CMAKE_CURRENT_LIST_DIR}/test_linear.cc
  ${CMAKE_CURRENT_LIST_DIR}/test_pack.cc)

add_executable(filigree_kernel_bench ${CMAKE_CURRENT_LIST_DIR}/bench_linear.cc)
target_link_libraries(filigree_kernel_bench PRIVATE filigree_core)
