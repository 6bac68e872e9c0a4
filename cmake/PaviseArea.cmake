# One CMake target an area. pavise_area(NAME SOURCES ... USES <area targets and libraries>)
# declares the library; pavise_test and pavise_fuzz add what sits beside the sources.

add_library(pavise_flags INTERFACE)
target_compile_options(pavise_flags INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wno-missing-field-initializers
  -fno-omit-frame-pointer -fstack-protector-strong)
target_compile_definitions(pavise_flags INTERFACE
  PAVISE_VERSION="${PROJECT_VERSION}"
  $<$<CONFIG:Release,RelWithDebInfo>:_FORTIFY_SOURCE=2>)
target_include_directories(pavise_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
if(PAVISE_SANITIZE)
  target_compile_options(pavise_flags INTERFACE -fsanitize=${PAVISE_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(pavise_flags INTERFACE -fsanitize=${PAVISE_SANITIZE})
endif()
if(PAVISE_FUZZ)
  target_compile_options(pavise_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
# Abseil is in our programs as archives, and once more behind libgrpc as shared libraries. Each half keeps to
# its own: what was exported from ours took the place of theirs, and a Cord that one had sampled for its
# statistics ended the program in the other ("ODR violation in Cord").
target_link_options(pavise_flags INTERFACE -Wl,--exclude-libs,ALL)
find_program(PAVISE_MOLD mold)
if(PAVISE_MOLD AND NOT PAVISE_FUZZ)
  target_link_options(pavise_flags INTERFACE -fuse-ld=mold)
endif()
find_program(PAVISE_CCACHE ccache)
if(PAVISE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${PAVISE_CCACHE})
endif()

function(pavise_area name)
  cmake_parse_arguments(A "" "" "SOURCES;USES;PRIVATE_USES" ${ARGN})
  add_library(pavise_${name} STATIC ${A_SOURCES})
  target_link_libraries(pavise_${name}
    PUBLIC $<BUILD_INTERFACE:pavise_flags> ${A_USES} PRIVATE ${A_PRIVATE_USES})
  # Areas end up in libpavise.so too; hidden, so that calls within an area stay direct.
  set_target_properties(pavise_${name} PROPERTIES
    POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
endfunction()

# pavise_test(AREA name_test.cc ...): one test binary an area, cases discovered by CTest.
# Tests find committed test data under the source tree and outside vectors through $PAVISE_VECTORS.
function(pavise_test area)
  if(NOT PAVISE_TESTS)
    return()
  endif()
  cmake_parse_arguments(A "" "" "USES" ${ARGN})
  add_executable(${area}_test ${A_UNPARSED_ARGUMENTS})
  target_link_libraries(${area}_test PRIVATE pavise_${area} ${A_USES} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${area}_test PRIVATE
    PAVISE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" PAVISE_BINARY_DIR="${CMAKE_BINARY_DIR}")
  # Tests run once for each time they are compiled: -O1 takes a third less time than -O3.
  target_compile_options(${area}_test PRIVATE $<$<CONFIG:Release,RelWithDebInfo>:-O1>)
  gtest_discover_tests(${area}_test TEST_PREFIX "${area}." DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT 600)
endfunction()

# pavise_fuzz(AREA name_fuzz.cc): with PAVISE_FUZZ a libFuzzer binary bin/<name>; in every build the
# same entry point runs over its committed corpus (fuzz/corpus/<name>/) as a CTest case. All libFuzzer
# binaries are the target fuzz_targets.
if(PAVISE_FUZZ)
  add_custom_target(fuzz_targets)
endif()
function(pavise_fuzz area source)
  get_filename_component(name ${source} NAME_WE)
  if(PAVISE_FUZZ)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE pavise_${area})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzz_targets ${name})
  elseif(PAVISE_TESTS)
    add_executable(${name}_corpus ${source} ${CMAKE_SOURCE_DIR}/fuzz/corpus_main.cc)
    target_link_libraries(${name}_corpus PRIVATE pavise_${area})
    add_test(NAME fuzz_corpus.${name}
      COMMAND ${name}_corpus ${CMAKE_SOURCE_DIR}/fuzz/corpus/${name})
  endif()
endfunction()

# pavise_portable(NAME [SOURCES x.cc ...] [OBJECTS_OF test] [EXCEPT pattern] AREAS lowest last ...): a
# program, built on request only, that runs where there is a driver and the C library only
# (bench/gpu/build.sh). All else is linked as archives, by file name: targets would bring shared
# libraries along.
function(pavise_portable name)
  cmake_parse_arguments(P "" "OBJECTS_OF;EXCEPT" "SOURCES;AREAS" ${ARGN})
  set(objects)
  set(tests)
  if(P_OBJECTS_OF)
    set(objects $<TARGET_OBJECTS:${P_OBJECTS_OF}>)
    if(P_EXCEPT)
      set(objects $<FILTER:${objects},EXCLUDE,${P_EXCEPT}>)
    endif()
    set(tests $<TARGET_FILE:pavise_crypto_testing> GTest::gmock GTest::gtest_main)
  endif()
  set(archives)
  foreach(area ${P_AREAS})
    list(APPEND archives $<TARGET_FILE:pavise_${area}>)
    if(area STREQUAL "hash" AND PAVISE_HAS_CUDA)
      list(APPEND archives $<TARGET_FILE:pavise_hash_cuda_kernels>)
      set(cuda CUDA::cudart_static)
    endif()
  endforeach()
  add_executable(${name} EXCLUDE_FROM_ALL ${P_SOURCES} ${objects})
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
  foreach(area ${P_AREAS})
    add_dependencies(${name} pavise_${area})
  endforeach()
  if(P_OBJECTS_OF)
    add_dependencies(${name} pavise_crypto_testing)
  endif()
  target_link_options(${name} PRIVATE -static-libstdc++ -static-libgcc)
  target_link_libraries(${name} PRIVATE pavise_flags ${tests} ${archives} libyaml-cpp.a liburing.a
    libcrypto.a absl::flat_hash_set absl::status absl::statusor absl::strings
    absl::str_format absl::time ${cuda} Threads::Threads ${CMAKE_DL_LIBS})
endfunction()
