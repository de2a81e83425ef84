// Included before every C++ file of llama.cpp. GCC before 13.3 is not told which memory AMX's loads read: of the 64 bytes of
// `ldtilecfg` it keeps the stores of one pointer's worth, so that the first product of a quantised matrix is a general
// protection fault, and it may move a store past the load of a tile. The loads are the same here, and are told to the compiler.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" : : "m"(*(const char (*)[64])(config)))
#undef _tile_loadd
#define _tile_loadd(tile, base, stride)        \
    do {                                       \
        __asm__ volatile("" : : : "memory");   \
        _tile_loadd_internal(tile, base, stride); \
    } while (0)
#endif
