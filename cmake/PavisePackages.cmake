# Debian packages, one an install component (make package): programs, training, workers, the C library, and what
# programs of others are built with. What is for one package alone is installed here; targets are
# installed where they are made, with their COMPONENT.
include(GNUInstallDirs)
set(pavise_docs ${CMAKE_INSTALL_DATADIR}/doc)
foreach(pair program:pavise training:pavise-train worker:pavise-worker library:libpavise0 development:libpavise-dev)
  string(REPLACE ":" ";" pair ${pair})
  list(GET pair 0 component)
  list(GET pair 1 package)
  install(FILES LICENSE DESTINATION ${pavise_docs}/${package} RENAME copyright COMPONENT ${component})
endforeach()

install(FILES docs/man/pavise.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT program)
install(FILES deploy/systemd/pavise-broker.service DESTINATION lib/systemd/system COMPONENT program)
install(FILES deploy/debian/pavise-broker.conf DESTINATION lib/sysusers.d COMPONENT program)
install(FILES deploy/systemd/pavise-worker.service DESTINATION lib/systemd/system COMPONENT worker)
install(FILES deploy/debian/pavise-worker.conf DESTINATION lib/sysusers.d COMPONENT worker)
install(DIRECTORY deploy/kubernetes deploy/slurm DESTINATION ${pavise_docs}/pavise-worker/examples COMPONENT worker)
install(FILES README.md CHANGELOG.md DESTINATION ${pavise_docs}/pavise COMPONENT program)
install(DIRECTORY docs DESTINATION ${pavise_docs}/pavise COMPONENT program PATTERN man EXCLUDE)

# Areas that a program of one's own links: pavise::loading, pavise::train_torch and so on. Headers of the
# other areas, and an area's internal/ and testing/, are nobody else's.
set(pavise_developer_areas base crypto hash model signing loading offload train)
set(pavise_developer_targets ${pavise_developer_areas} hash_cuda_kernels offload_cuda_kernels offload_grpc offload_proto train_torch)
foreach(name ${pavise_developer_targets})
  if(NOT TARGET pavise_${name})
    continue()
  endif()
  set_target_properties(pavise_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(pavise_${name} INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(pavise_${name} INTERFACE cxx_std_20)
  install(TARGETS pavise_${name} EXPORT pavise ARCHIVE COMPONENT development)
endforeach()
if(TARGET libtorch)
  install(TARGETS libtorch EXPORT pavise COMPONENT development)
endif()
foreach(area ${pavise_developer_areas})
  install(DIRECTORY pavise/${area} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/pavise COMPONENT development
    FILES_MATCHING PATTERN "*.h" PATTERN internal EXCLUDE PATTERN testing EXCLUDE)
endforeach()
include(CMakePackageConfigHelpers)
set(pavise_needs_grpc OFF)
if(TARGET pavise_offload_grpc)
  set(pavise_needs_grpc ON)
endif()
set(pavise_cmake ${CMAKE_INSTALL_LIBDIR}/cmake/Pavise)
configure_package_config_file(cmake/PaviseConfig.cmake.in ${CMAKE_BINARY_DIR}/PaviseConfig.cmake
  INSTALL_DESTINATION ${pavise_cmake} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/PaviseConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(EXPORT pavise DESTINATION ${pavise_cmake} NAMESPACE pavise:: FILE PaviseTargets.cmake COMPONENT development)
install(FILES ${CMAKE_BINARY_DIR}/PaviseConfig.cmake ${CMAKE_BINARY_DIR}/PaviseConfigVersion.cmake
  DESTINATION ${pavise_cmake} COMPONENT development)
install(DIRECTORY examples/ DESTINATION ${pavise_docs}/libpavise-dev/examples COMPONENT development)

# Packages take what the target `packaged` builds, not "all", which has the tests in it.
add_custom_target(packaged DEPENDS pavise pavise-all pavise-agent pavise-init pavise_c_api)
foreach(target pavise-train pavise-worker pavise_offload_grpc)
  if(TARGET ${target})
    add_dependencies(packaged ${target})
  endif()
endforeach()
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_PACKAGE_CONTACT "Pavise maintainers <maintainers@pavise.invalid>")
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_COMPONENTS_ALL program library development)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME pavise)
set(CPACK_DEBIAN_PROGRAM_DESCRIPTION "${PROJECT_DESCRIPTION}
 Signs and verifies models in the OpenSSF standard, appraises machines,
 releases keys to those that all owners accept, and runs what they agreed on.")
set(CPACK_DEBIAN_PROGRAM_PACKAGE_RECOMMENDS bubblewrap)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SUGGESTS "pavise-train, tpm2-tools, systemd-boot-efi")
set(CPACK_DEBIAN_PROGRAM_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/deploy/debian/pavise/postinst)

set(CPACK_DEBIAN_TRAINING_PACKAGE_NAME pavise-train)
set(CPACK_DEBIAN_TRAINING_DESCRIPTION "Training and inference with workers that nobody trusts
 The part of Pavise that needs libtorch: pavise train and pavise infer.")
set(CPACK_DEBIAN_TRAINING_PACKAGE_DEPENDS "pavise (= ${PROJECT_VERSION})")
# libtorch is content with the reference BLAS, several times slower.
set(CPACK_DEBIAN_TRAINING_PACKAGE_RECOMMENDS libopenblas0-pthread)
if(TARGET pavise-train)
  list(APPEND CPACK_COMPONENTS_ALL training)
endif()

set(CPACK_DEBIAN_WORKER_PACKAGE_NAME pavise-worker)
set(CPACK_DEBIAN_WORKER_DESCRIPTION "Computes matrix products for coordinators that do not trust it
 It sees what the coordinator's scheme lets it see, and keeps nothing on disk.")
set(CPACK_DEBIAN_WORKER_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/deploy/debian/pavise-worker/postinst)
if(TARGET pavise-worker)
  list(APPEND CPACK_COMPONENTS_ALL worker)
endif()

set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME libpavise0)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_LIBRARY_DESCRIPTION "Loads signed models into memory, from C
 What it hands out was hashed in the memory that it lies in.")

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libpavise-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SHLIBDEPS OFF)
set(CPACK_DEBIAN_DEVELOPMENT_DESCRIPTION "Headers and libraries to build programs with Pavise
 C: libpavise. C++: signing, verified loading, offload and protected training,
 as CMake targets (find_package(Pavise)).")
# What its archives are linked with.
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "libpavise0 (= ${PROJECT_VERSION}), libabsl-dev, libdnnl-dev, libgrpc++-dev, \
libp11-kit-dev, libprotobuf-dev, libssl-dev, liburing-dev, libyaml-cpp-dev, nlohmann-json3-dev, pkg-config, zlib1g-dev")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_RECOMMENDS libtorch-dev)
include(CPack)
