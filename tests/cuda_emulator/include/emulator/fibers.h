// fibers.h - one stack for each CUDA thread, switched in user space.
//
// A fiber runs until it blocks (at a barrier, a shuffle, ...) or ends, then control goes back to the scheduler in block.h.  The
// sanitizers have to be told of every switch: ASan which stack is in use, TSan which thread it is to think of.
#pragma once
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

// The emulator's own code is not instrumented: it reads other threads' data at moments when those are stopped.
#define EMULATOR_CODE __attribute__((no_sanitize("thread", "address", "undefined"), noinline))

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

namespace emulator {

constexpr size_t STACK_BYTES = 256 << 10;
constexpr int MAX_THREADS = 1024;             // of a block, as on a GPU
constexpr int MAX_COPIES = 256;               // cp.async of one thread in flight

enum class Status : uint8_t { NEW, READY, AT_BLOCK_BARRIER, AT_WARP_MEETING, DONE };

struct AsyncCopy { void* target; const void* source; int bytes, size, group; };     // size: bytes, and zeros after them

struct Fiber {
    uint3 index;                              // threadIdx
    int linear, lane, warp;
    Status status;
    const char* site;                         // source line of the barrier or shuffle it waits at
    bool waiting;                             // for lanes of its warp that have not come yet
    unsigned mask;                            // ... those of this mask
    char* stack;
    void* stack_pointer;
    void* asan_stack;                         // ASan's fake stack while the fiber is switched out
    void* tsan_fiber;
    unsigned block_barriers, warp_barriers;   // passed so far: their parity picks one of two tokens
    AsyncCopy copies[MAX_COPIES];
    int copy_count, copy_group;
};

struct Scheduler;
EMULATOR_CODE void run_body();                // the kernel's body, for the current fiber (block.h)

// Saves the callee-saved registers and the stack pointer, and continues on another stack (x86-64 and AArch64, System V).
extern "C" void emulator_switch(void** save, void* load);
#if defined(__x86_64__)
constexpr int SAVED_WORDS = 6;
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#else
#error "the emulator switches stacks in x86-64 assembly; write emulator_switch for this processor"
#endif

struct Stacks {                               // where control goes back to, and stacks that are free
    void* main_pointer = nullptr;
    void* main_asan_stack = nullptr;
    const void* main_bottom = nullptr;
    size_t main_size = 0;
    void* main_tsan = nullptr;
    std::vector<char*> free;
    char* of_thread[MAX_THREADS] = {};        // the stack that a thread had in the last block
    void* tsan_of_thread[MAX_THREADS] = {};   // creating one takes a millisecond: they are kept
};

// Happens-before edges for TSan; without it, nothing.
inline void release(void* token) {
#if defined(__SANITIZE_THREAD__)
    __tsan_release(token);
#endif
    (void)token;
}
inline void acquire(void* token) {
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(token);
#endif
    (void)token;
}

EMULATOR_CODE inline void switch_to_scheduler(Stacks& stacks, Fiber* fiber, bool dying) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(dying ? nullptr : &fiber->asan_stack, stacks.main_bottom, stacks.main_size);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(stacks.main_tsan, 1);          // 1: no happens-before from the switch itself
#endif
    emulator_switch(&fiber->stack_pointer, stacks.main_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber->asan_stack, nullptr, nullptr);
#endif
    (void)dying;
}

EMULATOR_CODE inline void switch_to_fiber(Stacks& stacks, Fiber* fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&stacks.main_asan_stack, fiber->stack, STACK_BYTES);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(fiber->tsan_fiber, 1);
#endif
    emulator_switch(&stacks.main_pointer, fiber->stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(stacks.main_asan_stack, nullptr, nullptr);
#endif
}

EMULATOR_CODE inline void first_frame() {     // where every fiber begins
    run_body();
    abort();                                  // run_body does not return
}

// Gives a new thread a stack whose first frame is first_frame.
EMULATOR_CODE inline void give_stack(Stacks& stacks, Fiber& fiber, bool blocks_race) {
#if defined(__SANITIZE_THREAD__)
    // A stack handed on to another thread would look like a race between the two, so each keeps its own; where blocks are
    // looked at for races among each other, each block needs new ones.
    stacks.free.clear();
    if (char* own = stacks.of_thread[fiber.linear]) {
        if (blocks_race) munmap(own, STACK_BYTES); else stacks.free.push_back(own);
    }
    if (blocks_race && stacks.tsan_of_thread[fiber.linear]) {
        __tsan_destroy_fiber(stacks.tsan_of_thread[fiber.linear]);
        stacks.tsan_of_thread[fiber.linear] = nullptr;
    }
    if (!stacks.tsan_of_thread[fiber.linear]) stacks.tsan_of_thread[fiber.linear] = __tsan_create_fiber(0);
    fiber.tsan_fiber = stacks.tsan_of_thread[fiber.linear];
#endif
    (void)blocks_race;
    if (stacks.free.empty()) {
        void* fresh = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (fresh == MAP_FAILED) { fprintf(stderr, "emulator: no memory for stacks\n"); abort(); }
        stacks.free.push_back(static_cast<char*>(fresh));
    }
    fiber.stack = stacks.of_thread[fiber.linear] = stacks.free.back();
    stacks.free.pop_back();
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, STACK_BYTES);
#endif
    void** top = reinterpret_cast<void**>(fiber.stack + STACK_BYTES);
    *--top = nullptr;                         // so that the stack is aligned as after a call
    *--top = reinterpret_cast<void*>(&first_frame);
    for (int i = 0; i < SAVED_WORDS; i++) *--top = nullptr;
    fiber.stack_pointer = top;
    fiber.asan_stack = nullptr;
    fiber.status = Status::READY;
}

EMULATOR_CODE inline void take_stack_back(Stacks& stacks, Fiber& fiber) {
    if (!fiber.stack) return;
    stacks.free.push_back(fiber.stack);
    fiber.stack = nullptr;
}

// After a launch whose blocks race, nothing is kept of its threads: all kernels' together would be more mappings than Linux gives a
// process (65,530).
EMULATOR_CODE inline void let_go(Stacks& stacks) {
#if defined(__SANITIZE_THREAD__)
    for (int i = 0; i < MAX_THREADS; i++) {
        if (stacks.of_thread[i]) munmap(stacks.of_thread[i], STACK_BYTES);
        if (stacks.tsan_of_thread[i]) __tsan_destroy_fiber(stacks.tsan_of_thread[i]);
        stacks.of_thread[i] = nullptr;
        stacks.tsan_of_thread[i] = nullptr;
    }
    stacks.free.clear();
#endif
    (void)stacks;
}

}  // namespace emulator
