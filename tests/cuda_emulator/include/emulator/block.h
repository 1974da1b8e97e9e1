// block.h - runs the blocks of a grid one after another, and within a block its threads, until all have ended.
//
// A warp is run until all of its lanes wait or have ended, then the next one: this spreads the warps as far apart as barriers
// allow, which is what shows a missing one (a round of one step per thread would hide it).  The order of blocks, warps and lanes is
// the schedule: forward, reverse or random.  Shared memory is filled with 0xff before every block, which reads as NaN or -1.
#pragma once
#include "fibers.h"

#include <algorithm>

namespace emulator {

constexpr size_t MAX_SHARED = 228 << 10;      // bytes of a block, as on Hopper
constexpr int MAX_GROUPS = 32;                // different masks that one warp may use in a block

enum Schedule { FORWARD = 0, REVERSE = 1, RANDOM = 2 };

// Lanes of a warp that meet under one mask.  Values are posted in one of two slots in turn: a lane that is already at the next
// meeting must not overwrite what a slower one has yet to read.
struct Group {
    unsigned mask = 0, arrived = 0;
    uint64_t meetings = 0;
    const char* site = nullptr;
    uint64_t slot[2][32][8];
};
struct Warp { char token[2]; unsigned live = 0; int groups = 0; Group group[MAX_GROUPS]; };

struct Scheduler {
    Fiber* current = nullptr;
    dim3 block_dim, grid_dim;
    uint3 block_index;
    char* dynamic_shared = nullptr;
    unsigned dynamic_bytes = 0;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<int> warp_order;
    Stacks stacks;
    void (*body)(void*) = nullptr;            // calls the kernel with its arguments
    void* context = nullptr;
    int live = 0, schedule = FORWARD;
    uint64_t random_state = 1;
    bool failed = false, blocks_race = false;
    char error[512] = "", signature[1024] = "";
    char launch_token, done_token, barrier_token[2];
};
// In a section of its own: .bss then holds the kernels' __shared__ arrays and nothing else, and can be filled before each block.
// (GCC before 14 ignores section attributes of variables in templates, so the arrays cannot be given one instead.)
static Scheduler scheduler __attribute__((section("emulator_state")));

extern "C" char __bss_start[] __attribute__((visibility("hidden")));
extern "C" char _end[] __attribute__((visibility("hidden")));
#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_java_init(unsigned long, unsigned long);
extern "C" void __tsan_java_alloc(unsigned long, unsigned long);
#endif

EMULATOR_CODE inline void run_body() {
    Scheduler& s = scheduler;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &s.stacks.main_bottom, &s.stacks.main_size);
#endif
    acquire(&s.launch_token);
    s.body(s.context);
    Fiber* fiber = s.current;
    release(&s.done_token);
    fiber->status = Status::DONE;
    s.live--;
    s.warps[fiber->warp].live &= ~(1u << fiber->lane);
    switch_to_scheduler(s.stacks, fiber, true);
    abort();
}

// Ends the launch with an error, from within a thread.
[[noreturn]] EMULATOR_CODE inline void fail(const char* format, ...) {
    Scheduler& s = scheduler;
    Fiber* fiber = s.current;
    if (!s.failed) {
        char text[400];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        snprintf(s.error, sizeof s.error, "%s [block (%u,%u,%u) thread (%u,%u,%u)]", text, s.block_index.x, s.block_index.y,
                 s.block_index.z, fiber->index.x, fiber->index.y, fiber->index.z);
        s.failed = true;
    }
    fiber->status = Status::DONE;
    switch_to_scheduler(s.stacks, fiber, true);
    abort();
}

EMULATOR_CODE inline uint64_t next_random() { // xorshift64 (Marsaglia 2003)
    uint64_t& x = scheduler.random_state;
    x ^= x << 13; x ^= x >> 7; x ^= x << 17;
    return x;
}

EMULATOR_CODE inline void put_in_order(std::vector<int>& items) {
    if (scheduler.schedule == REVERSE) std::reverse(items.begin(), items.end());
    if (scheduler.schedule == RANDOM)
        for (size_t i = items.size(); i > 1; i--) std::swap(items[i - 1], items[next_random() % i]);
}

EMULATOR_CODE inline int lane_at(int place) {
    if (scheduler.schedule == REVERSE) return 31 - place;
    if (scheduler.schedule == RANDOM) return int((place * 5 + scheduler.random_state) % 32);
    return place;
}

EMULATOR_CODE inline void poison_shared() {
    for (volatile char* p = __bss_start; p < (volatile char*)_end; p++) *p = (char)0xff;
    for (size_t i = 0; i < scheduler.dynamic_bytes; i++) ((volatile char*)scheduler.dynamic_shared)[i] = (char)0xff;
}

// Blocks that race: TSan is not told that one runs after another, so that it reports two blocks writing one place of global
// memory.  Shared memory is one storage for all blocks, so TSan has to forget who used it; its call for a fresh Java object does that.
EMULATOR_CODE inline void forget_shared() {
#if defined(__SANITIZE_THREAD__)
    if (!getenv("EMULATOR_TSAN_JAVA")) { setenv("EMULATOR_TSAN_JAVA", "1", 1); __tsan_java_init(8, 1ul << 46); }
    unsigned long begin = ((unsigned long)__bss_start + 7) & ~7ul, end = (unsigned long)_end & ~7ul;
    if (end > begin) __tsan_java_alloc(begin, end - begin);
    if (scheduler.dynamic_bytes) __tsan_java_alloc((unsigned long)scheduler.dynamic_shared, (scheduler.dynamic_bytes + 7) & ~7u);
#endif
}

EMULATOR_CODE inline void start_block() {
    Scheduler& s = scheduler;
    const int threads = s.live = int(s.block_dim.x * s.block_dim.y * s.block_dim.z), warps = (threads + 31) / 32;
    s.fibers.resize(threads);
    s.warp_order.resize(warps);
    for (int w = 0; w < warps; w++) {
        s.warp_order[w] = w;
        s.warps[w].live = 0;
        s.warps[w].groups = 0;
    }
    for (int i = 0; i < threads; i++) {
        Fiber& f = s.fibers[i];
        f.linear = i; f.lane = i % 32; f.warp = i / 32;
        f.index = {i % s.block_dim.x, i / s.block_dim.x % s.block_dim.y, i / (s.block_dim.x * s.block_dim.y)};
        f.status = Status::NEW; f.stack = nullptr; f.waiting = false; f.site = nullptr;
        f.copy_count = f.copy_group = 0;
        f.block_barriers = f.warp_barriers = 0;
        s.warps[f.warp].live |= 1u << f.lane;
    }
    poison_shared();
    if (s.blocks_race) forget_shared(); else release(&s.launch_token);
}

// Runs the lanes of a warp until all wait or have ended; whether any of them got anywhere.
EMULATOR_CODE inline bool run_warp(int warp) {
    Scheduler& s = scheduler;
    const int threads = int(s.fibers.size());
    bool progress = false;
    for (bool more = true; more && !s.failed;) {
        more = false;
        for (int place = 0; place < 32 && !s.failed; place++) {
            const int i = warp * 32 + lane_at(place);
            if (i >= threads) continue;
            Fiber& f = s.fibers[i];
            if (f.status == Status::AT_BLOCK_BARRIER || f.status == Status::DONE) continue;
            if (f.status == Status::AT_WARP_MEETING && f.waiting) continue;
            if (f.status == Status::NEW) give_stack(s.stacks, f, s.blocks_race);
            f.status = Status::READY;
            more = progress = true;
            s.current = &f;
            switch_to_fiber(s.stacks, &f);
            if (f.status == Status::DONE) take_stack_back(s.stacks, f);
        }
        if (s.schedule == RANDOM && next_random() % 4 == 0) break;      // sometimes another warp goes first
    }
    return progress;
}

// Nobody can go on: lets all threads through the barrier that they all wait at, or says what is wrong.
EMULATOR_CODE inline void pass_barrier() {
    Scheduler& s = scheduler;
    int waiting = 0;
    const char* site = nullptr;
    Fiber *elsewhere = nullptr, *stuck = nullptr;
    for (Fiber& f : s.fibers) {
        if (f.status == Status::AT_WARP_MEETING && !stuck) stuck = &f;
        if (f.status != Status::AT_BLOCK_BARRIER) continue;
        waiting++;
        if (!site) site = f.site;
        else if (site != f.site && !elsewhere) elsewhere = &f;
    }
    if (waiting == s.live && !elsewhere) {
        for (Fiber& f : s.fibers) if (f.status == Status::AT_BLOCK_BARRIER) f.status = Status::READY;
        return;
    }
    s.failed = true;
    if (stuck)
        snprintf(s.error, sizeof s.error, "deadlock: thread %d waits at %s for lanes of mask %08x; %d of %d live threads wait at "
                 "__syncthreads %s", stuck->linear, stuck->site, stuck->mask, waiting, s.live, site ? site : "");
    else
        snprintf(s.error, sizeof s.error, "divergent __syncthreads: some threads at %s, thread %d at %s", site,
                 elsewhere->linear, elsewhere->site);
}

EMULATOR_CODE inline void run_block() {
    Scheduler& s = scheduler;
    start_block();
    while (s.live > 0 && !s.failed) {
        bool progress = false;
        put_in_order(s.warp_order);
        for (int warp : s.warp_order) progress |= run_warp(warp);
        if (!progress && !s.failed && s.live > 0) pass_barrier();
    }
    for (Fiber& f : s.fibers) take_stack_back(s.stacks, f);
    if (!s.blocks_race) acquire(&s.done_token);
}

// ---- what a thread waits at ----------------------------------------------------------------------------------------

EMULATOR_CODE inline void block_barrier(const char* site) {
    Scheduler& s = scheduler;
    Fiber* fiber = s.current;
    fiber->site = site;
    fiber->status = Status::AT_BLOCK_BARRIER;
    char* token = &s.barrier_token[fiber->block_barriers++ & 1];        // two: arriving early at the next must not order laggards
    release(token);
    switch_to_scheduler(s.stacks, fiber, false);
    acquire(token);
}

using Posted = uint64_t (*)[8];               // by lane: up to 64 bytes

// Every lane of mask posts a value; when all have, each may read the others'.
EMULATOR_CODE inline Posted meet(unsigned mask, const char* site, const void* value, size_t bytes) {
    Scheduler& s = scheduler;
    Fiber* fiber = s.current;
    Warp& warp = s.warps[fiber->warp];
    if (!(mask >> fiber->lane & 1)) fail("%s: lane %d calls, but is not in mask %08x", site, fiber->lane, mask);
    Group* group = nullptr;
    for (int i = 0; i < warp.groups; i++) if (warp.group[i].mask == mask) group = &warp.group[i];
    if (!group) {
        if (warp.groups == MAX_GROUPS) fail("%s: more than %d different masks in one warp", site, MAX_GROUPS);
        group = &warp.group[warp.groups++];
        group->mask = mask; group->arrived = 0; group->meetings = 0;
    }
    if (group->arrived && group->site != site)
        fail("divergent warp operation: some lanes at %s, lane %d at %s", group->site, fiber->lane, site);
    Posted slot = group->slot[group->meetings & 1];
    group->site = site;
    for (size_t i = 0; i < bytes; i++)        // by hand: TSan looks into memcpy
        ((volatile char*)slot[fiber->lane])[i] = ((const volatile char*)value)[i];
    group->arrived |= 1u << fiber->lane;
    if (group->arrived == mask) {
        group->arrived = 0;
        group->meetings++;
        for (int lane = 0; lane < 32; lane++)
            if (mask >> lane & 1) s.fibers[fiber->warp * 32 + lane].waiting = false;
    } else {
        fiber->site = site; fiber->mask = mask; fiber->waiting = true; fiber->status = Status::AT_WARP_MEETING;
        switch_to_scheduler(s.stacks, fiber, false);
    }
    return slot;
}

template <class T> EMULATOR_CODE inline T posted(Posted slot, int lane) {
    T value;
    for (size_t i = 0; i < sizeof value; i++) ((volatile char*)&value)[i] = ((volatile char*)slot[lane])[i];
    return value;
}

EMULATOR_CODE inline void warp_barrier(unsigned mask, const char* site) {
    Fiber* fiber = scheduler.current;
    char* token = &scheduler.warps[fiber->warp].token[fiber->warp_barriers++ & 1];
    release(token);
    meet(mask, site, nullptr, 0);
    acquire(token);
}

}  // namespace emulator
