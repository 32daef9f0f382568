target_sources(filigree_kernel_test PRIVATE ${CMAKE_CURRENT_LIST_DIR}/test_formats.cc ${CMAKE_CURRENT_LIST_DIR}/test_formats_hostile.cc)
target_compile_definitions(filigree_kernel_test PRIVATE FILIGREE_FIXTURES="${CMAKE_CURRENT_LIST_DIR}/../fixtures")
