// norm.cu - batch normalisation with ReLU and residual, over rows (N*H*W, C); layer normalisation; local response normalisation.
//
// Batch norm's parameters are of the type that is computed in: float32 beside 16-bit images, as mixed precision has them.
//
// Batch norm, forward and backward: statistics of each channel over all rows, then one pass that applies them.
//   naive   a block a channel: mean, then variance, two passes over memory that it reads with a stride of C
//   cuda    a block has 32 channels and a stretch of rows, so that a warp reads 32 neighbours; each thread keeps mean and centred
//           square sum of its rows (Welford 1962), which are joined within the block, and over blocks by a second kernel in a fixed
//           order (Chan et al. 1979): one pass over memory, no atomics, the same bits every time
#include "common.cuh"

constexpr int TILE = 32;                                        // channels of a block, a warp's width
constexpr int LANES = 8;                                        // rows that a block looks at together

struct Moments { A count, mean, square; };                      // square: the sum of (x - mean)^2

__device__ __forceinline__ Moments joined(Moments a, Moments b) {
    const A count = a.count + b.count;
    if (count == A(0)) return a;
    const A delta = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + delta * share, a.square + b.square + delta * delta * a.count * share};
}

extern "C" __global__ void __launch_bounds__(256, 2) batch_norm_statistics(const T* __restrict__ x, A* __restrict__ partial, Index rows, int C,
        int rows_per_block) {
    __shared__ Moments shared[LANES][TILE];
    const int c = blockIdx.x * TILE + threadIdx.x;
    const Index begin = (Index)blockIdx.y * rows_per_block, end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
    Moments m = {A(0), A(0), A(0)};
    if (c < C)
        for (Index row = begin + threadIdx.y; row < end; row += LANES) {
            const A value = A(x[row * C + c]), delta = value - m.mean;
            m.count += A(1);
            m.mean += delta / m.count;
            m.square += delta * (value - m.mean);
        }
    shared[threadIdx.y][threadIdx.x] = m;
#ifndef BUG_NO_BARRIER_BEFORE_JOINING
    __syncthreads();
#endif
    if (threadIdx.y == 0 && c < C) {
        for (int lane = 1; lane < LANES; lane++) m = joined(m, shared[lane][threadIdx.x]);
        A* out = partial + ((Index)blockIdx.y * C + c) * 3;
        out[0] = m.count; out[1] = m.mean; out[2] = m.square;
    }
}

extern "C" __global__ void batch_norm_join(const A* __restrict__ partial, A* __restrict__ mean, A* __restrict__ invstd, int C, int parts,
        double eps) {
    GRID_STRIDE(c, C) {
        double count = 0, centre = 0, square = 0;
        for (int part = 0; part < parts; part++) {
            const A* p = partial + ((Index)part * C + c) * 3;
            const double n = p[0], delta = p[1] - centre;
            if (n == 0) continue;
            count += n;
            centre += delta * n / count;
            square += p[2] + delta * delta * n * (count - n) / count;
        }
        mean[c] = A(centre);
        invstd[c] = A(1 / sqrt((count > 0 ? square / count : 0) + eps));
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) batch_norm_statistics_naive(const T* __restrict__ x, A* __restrict__ mean,
        A* __restrict__ invstd, Index rows, int C, double eps) {
    __shared__ A partial[32];
    const int c = blockIdx.x;
    A sum = 0;
    for (Index row = threadIdx.x; row < rows; row += blockDim.x) sum += A(x[row * C + c]);
    const A centre = block_sum(sum, partial) / A(rows);
    sum = 0;
    for (Index row = threadIdx.x; row < rows; row += blockDim.x) {
        const A delta = A(x[row * C + c]) - centre;
        sum += delta * delta;
    }
    const A square = block_sum(sum, partial);
    if (threadIdx.x == 0) {
        mean[c] = centre;
        invstd[c] = A(1 / sqrt(double(square) / double(rows) + eps));
    }
}

// y = (x - mean) * invstd * w + b, then + residual and ReLU where asked for; w, b and residual may be null.
extern "C" __global__ void batch_norm_apply(const T* __restrict__ x, const A* __restrict__ mean, const A* __restrict__ invstd,
        const A* __restrict__ w, const A* __restrict__ b, const T* __restrict__ residual, T* __restrict__ y, Index n, int C, int relu) {
    GRID_STRIDE(i, n) {
        const int c = i % C;
        A value = (A(x[i]) - mean[c]) * (w ? invstd[c] * w[c] : invstd[c]) + (b ? b[c] : A(0));
        if (residual) value += A(residual[i]);
        y[i] = T(relu && value < A(0) ? A(0) : value);
    }
}

// The same with given statistics: y = (x - mean) / sqrt(var + eps) * w + b ...
extern "C" __global__ void batch_norm_inference(const T* __restrict__ x, const A* __restrict__ mean, const A* __restrict__ var,
        const A* __restrict__ w, const A* __restrict__ b, const T* __restrict__ residual, T* __restrict__ y, Index n, int C, double eps,
        int relu) {
    GRID_STRIDE(i, n) {
        const int c = i % C;
        const A scale = A(1) / square_root(var[c] + A(eps));
        A value = (A(x[i]) - mean[c]) * (w ? scale * w[c] : scale) + (b ? b[c] : A(0));
        if (residual) value += A(residual[i]);
        y[i] = T(relu && value < A(0) ? A(0) : value);
    }
}

// Sums of g and g * (x - mean) over rows, where g is gy, or with ReLU gy where y > 0.
extern "C" __global__ void __launch_bounds__(256, 2) batch_norm_grad_sums(const T* __restrict__ gy, const T* __restrict__ x,
        const T* __restrict__ y, const A* __restrict__ mean, A* __restrict__ partial, Index rows, int C, int rows_per_block) {
    __shared__ A shared[LANES][TILE][2];
    const int c = blockIdx.x * TILE + threadIdx.x;
    const Index begin = (Index)blockIdx.y * rows_per_block, end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
    A sum = 0, along = 0;
    if (c < C)
        for (Index row = begin + threadIdx.y; row < end; row += LANES) {
            const Index i = row * C + c;
            const A g = !y || A(y[i]) > A(0) ? A(gy[i]) : A(0);
            sum += g;
            along += g * (A(x[i]) - mean[c]);
        }
    shared[threadIdx.y][threadIdx.x][0] = sum;
    shared[threadIdx.y][threadIdx.x][1] = along;
    __syncthreads();
    if (threadIdx.y == 0 && c < C) {
        for (int lane = 1; lane < LANES; lane++) {
            sum += shared[lane][threadIdx.x][0];
            along += shared[lane][threadIdx.x][1];
        }
        A* out = partial + ((Index)blockIdx.y * C + c) * 2;
        out[0] = sum; out[1] = along;
    }
}

// gw = invstd * sum(g * (x - mean)), gb = sum(g), and per channel the three numbers with which gx = g*scale + (x-mean)*by_x + constant.
extern "C" __global__ void batch_norm_grad_join(const A* __restrict__ partial, const A* __restrict__ invstd, const A* __restrict__ w,
        A* __restrict__ gw, A* __restrict__ gb, A* __restrict__ factors, int C, int parts, double count) {
    GRID_STRIDE(c, C) {
        double sum = 0, along = 0;
        for (int part = 0; part < parts; part++) {
            sum += partial[((Index)part * C + c) * 2];
            along += partial[((Index)part * C + c) * 2 + 1];
        }
        const double scale = double(invstd[c]) * (w ? double(w[c]) : 1.0);
        along *= invstd[c];
        gb[c] = A(sum);
        gw[c] = A(along);
        factors[c * 3] = A(scale);
        factors[c * 3 + 1] = A(-scale * invstd[c] * along / count);
        factors[c * 3 + 2] = A(-scale * sum / count);
    }
}

extern "C" __global__ void batch_norm_grad_apply(const T* __restrict__ gy, const T* __restrict__ x, const T* __restrict__ y,
        const A* __restrict__ mean, const A* __restrict__ factors, T* __restrict__ gx, T* __restrict__ gresidual, Index n, int C) {
    GRID_STRIDE(i, n) {
        const int c = i % C;
        const A g = !y || A(y[i]) > A(0) ? A(gy[i]) : A(0);
        gx[i] = T(g * factors[c * 3] + (A(x[i]) - mean[c]) * factors[c * 3 + 1] + factors[c * 3 + 2]);
        if (gresidual) gresidual[i] = T(g);
    }
}

// ---- layer normalisation over rows (rows, D) -----------------------------------------------------------------------
//   naive   a thread a row
//   cuda    a warp a row: its lanes read neighbours, and join their sums with shuffles

__device__ __forceinline__ void write_row(const T* x, const T* w, const T* b, T* y, A centre, A scale, int first, int step, int D) {
    for (int d = first; d < D; d += step) {
        const A value = (A(x[d]) - centre) * scale * (w ? A(w[d]) : A(1)) + (b ? A(b[d]) : A(0));
        y[d] = T(value);
    }
}

extern "C" __global__ void layer_norm_naive(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
        A* __restrict__ mean, A* __restrict__ invstd, Index rows, int D, double eps) {
    GRID_STRIDE(row, rows) {
        const T* r = x + row * D;
        A sum = 0, square = 0;
        for (int d = 0; d < D; d++) sum += A(r[d]);
        const A centre = sum / A(D);
        for (int d = 0; d < D; d++) square += (A(r[d]) - centre) * (A(r[d]) - centre);
        mean[row] = centre;
        invstd[row] = A(1 / sqrt(double(square) / D + eps));
        write_row(r, w, b, y + row * D, centre, invstd[row], 0, 1, D);
    }
}

extern "C" __global__ void layer_norm(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
        A* __restrict__ mean, A* __restrict__ invstd, Index rows, int D, double eps) {
    const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    for (Index row = (Index)blockIdx.x * warps + (threadIdx.x >> 5); row < rows; row += (Index)gridDim.x * warps) {
        const T* r = x + row * D;
        A sum = 0, square = 0;
        for (int d = lane; d < D; d += 32) sum += A(r[d]);
        const A centre = warp_sum(sum) / A(D);
        for (int d = lane; d < D; d += 32) square += (A(r[d]) - centre) * (A(r[d]) - centre);
        const A scale = A(1 / sqrt(double(warp_sum(square)) / D + eps));
        if (lane == 0) { mean[row] = centre; invstd[row] = scale; }
        write_row(r, w, b, y + row * D, centre, scale, lane, 32, D);
    }
}

extern "C" __global__ void layer_norm_grad_x(const T* __restrict__ gy, const T* __restrict__ x, const T* __restrict__ w,
        const A* __restrict__ mean, const A* __restrict__ invstd, T* __restrict__ gx, Index rows, int D) {
    const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    for (Index row = (Index)blockIdx.x * warps + (threadIdx.x >> 5); row < rows; row += (Index)gridDim.x * warps) {
        const A centre = mean[row], scale = invstd[row];
        A sum = 0, along = 0;
        for (int d = lane; d < D; d += 32) {
            const A g = A(gy[row * D + d]) * (w ? A(w[d]) : A(1));
            sum += g;
            along += g * (A(x[row * D + d]) - centre) * scale;
        }
        sum = warp_sum(sum) / A(D);
        along = warp_sum(along) / A(D);
        for (int d = lane; d < D; d += 32) {
            const A g = A(gy[row * D + d]) * (w ? A(w[d]) : A(1)), xhat = (A(x[row * D + d]) - centre) * scale;
            gx[row * D + d] = T(scale * (g - sum - xhat * along));
        }
    }
}

// gw and gb of a stretch of rows; the stretches are joined by column_sums.
extern "C" __global__ void __launch_bounds__(256, 2) layer_norm_grad_sums(const T* __restrict__ gy, const T* __restrict__ x,
        const A* __restrict__ mean, const A* __restrict__ invstd, A* __restrict__ partial, Index rows, int D, int rows_per_block) {
    __shared__ A shared[LANES][TILE][2];
    const int d = blockIdx.x * TILE + threadIdx.x;
    const Index begin = (Index)blockIdx.y * rows_per_block, end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
    A gw = 0, gb = 0;
    if (d < D)
        for (Index row = begin + threadIdx.y; row < end; row += LANES) {
            const A g = A(gy[row * D + d]);
            gb += g;
            gw += g * (A(x[row * D + d]) - mean[row]) * invstd[row];
        }
    shared[threadIdx.y][threadIdx.x][0] = gw;
    shared[threadIdx.y][threadIdx.x][1] = gb;
    __syncthreads();
    if (threadIdx.y == 0 && d < D) {
        for (int lane = 1; lane < LANES; lane++) {
            gw += shared[lane][threadIdx.x][0];
            gb += shared[lane][threadIdx.x][1];
        }
        A* out = partial + ((Index)blockIdx.y * D + d) * 2;
        out[0] = gw; out[1] = gb;
    }
}

extern "C" __global__ void layer_norm_grad_join(const A* __restrict__ partial, A* __restrict__ gw, A* __restrict__ gb, int D, int parts) {
    GRID_STRIDE(d, D) {
        double w = 0, b = 0;
        for (int part = 0; part < parts; part++) {
            w += partial[((Index)part * D + d) * 2];
            b += partial[((Index)part * D + d) * 2 + 1];
        }
        gw[d] = A(w);
        gb[d] = A(b);
    }
}

// ---- local response normalisation over rows (rows, C) ---------------------------------------------------------------
// y = x / (k + alpha/size * sum of x^2 over channels c - size/2 .. c + (size-1)/2)^beta
__device__ __forceinline__ A response(const T* row, int c, int C, int size, A alpha, A k) {
    A sum = 0;
    for (int d = c - size / 2 > 0 ? c - size / 2 : 0; d <= c + (size - 1) / 2 && d < C; d++) sum += A(row[d]) * A(row[d]);
    return k + alpha / A(size) * sum;
}

extern "C" __global__ void local_response_norm(const T* __restrict__ x, T* __restrict__ y, Index n, int C, int size, double alpha, double beta,
        double k) {
    GRID_STRIDE(i, n) {
        const int c = i % C;
        y[i] = T(A(x[i]) * power(response(x + (i - c), c, C, size, A(alpha), A(k)), A(-beta)));
    }
}

// gx[c] = gy[c]*r[c]^-beta - 2*alpha*beta/size * x[c] * sum of gy[d]*x[d]*r[d]^(-beta-1) over the d whose window has c
extern "C" __global__ void local_response_norm_grad(const T* __restrict__ gy, const T* __restrict__ x, T* __restrict__ gx, Index n, int C,
        int size, double alpha, double beta, double k) {
    GRID_STRIDE(i, n) {
        const int c = i % C;
        const T *row = x + (i - c), *grow = gy + (i - c);
        A sum = 0;
        for (int d = c - (size - 1) / 2 > 0 ? c - (size - 1) / 2 : 0; d <= c + size / 2 && d < C; d++)
            sum += A(grow[d]) * A(row[d]) * power(response(row, d, C, size, A(alpha), A(k)), A(-beta - 1));
        const A own = power(response(row, c, C, size, A(alpha), A(k)), A(-beta));
        gx[i] = T(A(grow[c]) * own - A(2 * alpha * beta / size) * A(row[c]) * sum);
    }
}
