// launch.h - EMULATOR_EXPORT(kernel): a C function that launches it and one that tells the types of its arguments.
#pragma once
#include "builtins.h"
#include "half.h"

#include <utility>

namespace emulator {

// An argument's type in NumPy's letters, after P for a pointer, C for a pointer to const.
template <class T> struct Code { static constexpr const char* text = "?"; };
#define EMULATOR_CODE_OF(T, c)                                                        \
    template <> struct Code<T> { static constexpr const char* text = c; };            \
    template <> struct Code<T*> { static constexpr const char* text = "P" c; };       \
    template <> struct Code<const T*> { static constexpr const char* text = "C" c; };
EMULATOR_CODE_OF(float, "f4") EMULATOR_CODE_OF(double, "f8") EMULATOR_CODE_OF(int, "i4") EMULATOR_CODE_OF(unsigned, "u4")
EMULATOR_CODE_OF(long, "i8") EMULATOR_CODE_OF(long long, "i8") EMULATOR_CODE_OF(unsigned long, "u8")
EMULATOR_CODE_OF(unsigned long long, "u8") EMULATOR_CODE_OF(unsigned char, "u1") EMULATOR_CODE_OF(signed char, "i1")
EMULATOR_CODE_OF(bool, "b1") EMULATOR_CODE_OF(__half, "f2") EMULATOR_CODE_OF(__nv_bfloat16, "u2")

struct Launch { unsigned grid[3], block[3], shared_bytes; int schedule; uint64_t seed; int blocks_race; };

template <class... A> struct Call { void (*kernel)(A...); void** arguments; };

template <class... A, size_t... I> inline void call(Call<A...>* c, std::index_sequence<I...>) {
    c->kernel(*static_cast<std::remove_const_t<A>*>(c->arguments[I])...);
}

template <class... A> inline const char* signature(void (*)(A...)) {
    char* text = scheduler.signature;
    text[0] = 0;
    ((strcat(text, Code<std::remove_const_t<A>>::text), strcat(text, " ")), ...);
    return text;
}

template <class... A> EMULATOR_CODE inline const char* launch(void (*kernel)(A...), const Launch* l, void** arguments) {
    Scheduler& s = scheduler;
    const unsigned long threads = (unsigned long)l->block[0] * l->block[1] * l->block[2];
    const unsigned long blocks = (unsigned long)l->grid[0] * l->grid[1] * l->grid[2];
    if (!threads || threads > MAX_THREADS) return "invalid configuration: a block has 1 to 1024 threads";
    if (!blocks || l->grid[1] > 65535 || l->grid[2] > 65535) return "invalid configuration: a grid has 1 to 2^31-1, 65535, 65535 blocks";
    if (l->shared_bytes > MAX_SHARED) return "invalid configuration: too much dynamic shared memory";
    Call<A...> context{kernel, arguments};
    s.context = &context;
    s.body = [](void* p) { call(static_cast<Call<A...>*>(p), std::index_sequence_for<A...>()); };
    s.grid_dim = {l->grid[0], l->grid[1], l->grid[2]};
    s.block_dim = {l->block[0], l->block[1], l->block[2]};
    s.schedule = l->schedule;
    s.random_state = l->seed * 0x9e3779b97f4a7c15ull | 1;
    s.failed = false;
    s.error[0] = 0;
    s.dynamic_bytes = l->shared_bytes;
#if defined(__SANITIZE_THREAD__)
    s.stacks.main_tsan = __tsan_get_current_fiber();
    s.blocks_race = l->blocks_race != 0;
#endif
    release(&s.launch_token);
    if (!s.dynamic_shared) s.dynamic_shared = static_cast<char*>(aligned_alloc(1024, MAX_SHARED));
    s.fibers.reserve(MAX_THREADS);            // fibers and warps are pointed to: they must not move
    if (s.warps.empty()) s.warps.resize(MAX_THREADS / 32);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(s.dynamic_shared, MAX_SHARED);
    __asan_poison_memory_region(s.dynamic_shared + s.dynamic_bytes, MAX_SHARED - s.dynamic_bytes);
#endif
    std::vector<int> order(blocks);
    for (unsigned long i = 0; i < blocks; i++) order[i] = int(i);
    put_in_order(order);
    for (unsigned long i = 0; i < blocks && !s.failed; i++) {
        const unsigned b = order[i], x = s.grid_dim.x, y = s.grid_dim.y;
        s.block_index = {b % x, b / x % y, b / (x * y)};
        run_block();
    }
    acquire(&s.done_token);
    if (s.blocks_race) let_go(s.stacks);
    return s.failed ? s.error : nullptr;
}

}  // namespace emulator

#define EMULATOR_EXPORT(kernel)                                                                       \
    extern "C" const char* emulator_launch_##kernel(const emulator::Launch* l, void** arguments) {    \
        return emulator::launch(&kernel, l, arguments);                                               \
    }                                                                                                 \
    extern "C" const char* emulator_signature_##kernel() { return emulator::signature(&kernel); }
