# The flags that every target of the project gets, on the interface target agl_flags.

if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON) # gnu17
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# assert() catches our own mistakes, in release builds too.
foreach(config RELEASE RELWITHDEBINFO MINSIZEREL)
    string(REGEX REPLACE "(^| )-DNDEBUG( |$)" " " CMAKE_C_FLAGS_${config} "${CMAKE_C_FLAGS_${config}}")
endforeach()

add_library(agl_flags INTERFACE)
target_include_directories(agl_flags INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/client/include)
target_compile_definitions(agl_flags INTERFACE _GNU_SOURCE)
target_compile_options(agl_flags INTERFACE
    -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wundef
    -Wformat=2 -Wimplicit-fallthrough -Wno-unused-parameter -fno-omit-frame-pointer)
if(AGL_WERROR)
    target_compile_options(agl_flags INTERFACE -Werror)
endif()

if(AGL_SANITIZE STREQUAL "address")
    set(sanitizers -fsanitize=address,undefined -fno-sanitize-recover=all)
elseif(AGL_SANITIZE STREQUAL "thread")
    # gcc's thread sanitizer does not understand fences and says so; doorbell.h is tested by other means.
    set(sanitizers -fsanitize=thread $<$<C_COMPILER_ID:GNU>:-Wno-tsan>)
elseif(NOT AGL_SANITIZE STREQUAL "")
    message(FATAL_ERROR "AGL_SANITIZE=${AGL_SANITIZE}: must be empty, address or thread")
endif()
if(AGL_FUZZ)
    if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
        message(FATAL_ERROR "AGL_FUZZ needs clang: use the preset fuzz")
    endif()
    target_compile_options(agl_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(AGL_COVERAGE)
    # Every condition keeps its own branch, and threads count in one counter. The tests that count are
    # those of the validating code: tests/coverage/.
    target_compile_options(agl_flags INTERFACE --coverage -O0 -fprofile-update=atomic
                           --param=logical-op-non-short-circuit=0)
    target_link_options(agl_flags INTERFACE --coverage)
    include(${PROJECT_SOURCE_DIR}/tests/coverage/tests.cmake)
endif()
if(sanitizers)
    target_compile_options(agl_flags INTERFACE ${sanitizers})
    target_link_options(agl_flags INTERFACE ${sanitizers})
endif()

# agl_test(NAME test_x SOURCES a.c ... LIBRARIES t ... [WRAP malloc ...] [LABELS l ...] [TIMEOUT s])
# One test program: cmocka, tests/support, and ctest.
function(agl_test)
    cmake_parse_arguments(test "" "NAME;TIMEOUT" "SOURCES;LIBRARIES;WRAP;LABELS;DEFINITIONS" ${ARGN})
    if(AGL_COVERAGE AND NOT test_NAME IN_LIST coverage_tests)
        return()
    endif()
    add_executable(${test_NAME} ${test_SOURCES})
    target_link_libraries(${test_NAME} PRIVATE agl_flags agl_test_support ${test_LIBRARIES} PkgConfig::cmocka)
    target_compile_definitions(${test_NAME} PRIVATE ${test_DEFINITIONS})
    foreach(symbol ${test_WRAP})
        target_link_options(${test_NAME} PRIVATE -Wl,--wrap=${symbol})
    endforeach()
    if(NOT test_TIMEOUT)
        set(test_TIMEOUT 300)
    endif()
    add_test(NAME ${test_NAME} COMMAND ${test_NAME} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${test_NAME} PROPERTIES TIMEOUT ${test_TIMEOUT} LABELS "${test_LABELS}"
                         SKIP_RETURN_CODE 77)
endfunction()
