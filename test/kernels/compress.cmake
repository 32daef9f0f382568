target_sources(filigree_kernel_test PRIVATE ${CMAKE_CURRENT_LIST_DIR}/test_compress.cc ${CMAKE_CURRENT_LIST_DIR}/test_compress_codes.cc ${CMAKE_CURRENT_LIST_DIR}/test_fixed.cc)
