target_sources(filigree_kernel_test PRIVATE ${CMAKE_CURRENT_LIST_DIR}/test_partition.cc)
