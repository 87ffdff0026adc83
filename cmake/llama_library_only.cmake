# Included by llama.cpp's project(): llama-cpp-python always asks for llama.cpp's "common" library,
# two fifths of its build, and installs what it never loads. A plain variable goes before its cache.
set(LLAMA_BUILD_COMMON OFF)
