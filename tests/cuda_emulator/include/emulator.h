// emulator.h - run CUDA C++ on the CPU, one fiber for each CUDA thread, for tests without a GPU.
//
// A .cu file is included after this one by g++ and calls the same names as under nvcc or NVRTC.  Not there: grid-wide barriers, clusters,
// wgmma, TMA, textures, streams.  Time means nothing here, and neither do the last bits of a float: a GPU contracts a*b+c.
#pragma once
#define MINIDL_EMULATOR 1
#include "emulator/fibers.h"
#include "emulator/block.h"
#include "emulator/builtins.h"
#include "emulator/half.h"
#include "emulator/tensor_core.h"
#include "emulator/launch.h"
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(emulator::scheduler.dynamic_shared)
