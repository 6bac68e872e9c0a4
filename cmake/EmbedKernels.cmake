# cmake -DOUTPUT=... -DHEADER=... -DNAMESPACE=... -DNAMES="A;B" -DA="x.h;y.cl" -DB=... -P EmbedKernels.cmake
# writes a C++ source that defines each name as the text of its files, one after the other: kernels
# travel in the program, and there is no second copy of them in the source tree.
set(text "// Written by cmake/EmbedKernels.cmake.\n#include \"${HEADER}\"\n\nnamespace ${NAMESPACE} {\n")
foreach(name IN LISTS NAMES)
  string(APPEND text "\nconst char* const ${name} =\n")
  foreach(file IN LISTS ${name})
    file(READ "${file}" content)
    if(content MATCHES "[)]PAVISE\"")
      message(FATAL_ERROR "${file} holds the end of a raw string")
    endif()
    string(APPEND text "    R\"PAVISE(${content})PAVISE\"\n")
  endforeach()
  string(APPEND text "    ;\n")
endforeach()
string(APPEND text "\n}  // namespace ${NAMESPACE}\n")
file(WRITE "${OUTPUT}" "${text}")
