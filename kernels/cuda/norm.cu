// norm.cu - batch normalisation with ReLU and residual, over rows (N*H*W, C); layer normalisation; local response normalisation.
//
// Batch norm, forward and backward: statistics of each channel over all rows, then one pass that applies them.
//   naive   a block a channel: mean, then variance, two passes over memory that it reads with a stride of C; then an element a thread,
//           which divides its number by C to find its channel
//   cuda    rows of C are seen as longer rows, so that a warp reads 512 neighbouring bytes however few the channels are.  A block has a
//           stretch of rows, a thread sums about the first value that it sees: one pass over memory, and neither a division nor a large
//           mean in it.  Threads are joined within the block, and blocks by a second kernel in a fixed order (Chan et al. 1979): no
//           atomics, the same bits every time.  Then 16 bytes a thread, whose channel moves on by additions.
// Batch norm's parameters are of the type that is computed in: float32 beside 16-bit images, as mixed precision has them.
#include "packs.cuh"

constexpr int TILE = 32;                                        // columns of a block, a warp's width (here of packs, below of elements)
constexpr int LANES = 8;                                        // rows that a block looks at together

struct Moments { A count, mean, square; };                      // square: the sum of (x - mean)^2

__device__ __forceinline__ Moments joined(Moments a, Moments b) {
    const A count = a.count + b.count;
    if (count == A(0)) return a;
    const A delta = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + delta * share, a.square + b.square + delta * delta * a.count * share};
}

// A block's stretch of long rows: n elements in rows of `wide`, a multiple of C and of PACK, the last of which may be short.
struct Stretch {
    Index begin, end;                                           // its rows
    Index n;
    int wide;

    __device__ __forceinline__ Stretch(Index n, int wide, int rows_per_block) : n(n), wide(wide) {
        const Index rows = (n + wide - 1) / wide;
        begin = (Index)blockIdx.y * rows_per_block;
        end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
    }
    // The end of the rows that have `size` elements from `column` on.
    __device__ __forceinline__ Index with(int column, int size) const {
        const Index rows = n - column >= size ? (n - column - size) / wide + 1 : 0;
        return rows < end ? rows : end;
    }
    // How many rows a thread in row `lane` of the block has, which end at `stop`.
    __device__ __forceinline__ A count(int lane, Index stop) const {
        return A(stop > begin + lane ? (stop - begin - lane + LANES - 1) / LANES : 0);
    }
};

// partial (3, parts, wide): count, mean and square of each column of each stretch.
extern "C" __global__ void __launch_bounds__(256, 2) batch_norm_statistics(const T* __restrict__ x, A* __restrict__ partial, Index n, int wide,
        int rows_per_block) {
    __shared__ A shared[2][LANES][TILE * PACK];
    const int column = (blockIdx.x * TILE + threadIdx.x) * PACK;
    const Stretch s(n, wide, rows_per_block);
    A shift[PACK], sum[PACK], square[PACK];
    Index row = s.begin + threadIdx.y;
#pragma unroll
    for (int e = 0; e < PACK; e++) {
        const Index i = row * wide + column + e;
        shift[e] = row < s.end && column < wide && i < n ? A(x[i]) : A(0);
        sum[e] = square[e] = A(0);
    }
    if (column < wide) {
        const Index full = s.with(column, PACK);
#pragma unroll 4
        for (; row < full; row += LANES) {
            const Pack v = *reinterpret_cast<const Pack*>(x + row * wide + column);
#pragma unroll
            for (int e = 0; e < PACK; e++) {
                const A delta = A(v.v[e]) - shift[e];
                sum[e] += delta;
                square[e] += delta * delta;
            }
        }
        if (row < s.end)                                        // the last row, if it ends in this pack or before
#pragma unroll
            for (int e = 0; e < PACK; e++) {
                const Index i = row * wide + column + e;
                const A delta = i < n ? A(x[i]) - shift[e] : A(0);
                sum[e] += delta;
                square[e] += delta * delta;
            }
    }
#pragma unroll
    for (int e = 0; e < PACK; e++) {
        const A count = column < wide ? s.count(threadIdx.y, s.with(column + e, 1)) : A(0), mean = count > A(0) ? sum[e] / count : A(0);
        shared[0][threadIdx.y][threadIdx.x * PACK + e] = shift[e] + mean;
        shared[1][threadIdx.y][threadIdx.x * PACK + e] = square[e] - sum[e] * mean;
    }
#ifndef BUG_NO_BARRIER_BEFORE_JOINING
    __syncthreads();
#endif
    for (int e = threadIdx.y * TILE + threadIdx.x; e < TILE * PACK; e += TILE * LANES) {
        const int own = blockIdx.x * TILE * PACK + e;
        if (own >= wide) continue;
        const Index stop = s.with(own, 1);
        Moments m = {A(0), A(0), A(0)};
        for (int lane = 0; lane < LANES; lane++) m = joined(m, {s.count(lane, stop), shared[0][lane][e], shared[1][lane][e]});
        A* out = partial + (Index)blockIdx.y * wide + own;
        const Index step = (Index)gridDim.y * wide;
        out[0] = m.count; out[step] = m.mean; out[2 * step] = m.square;
    }
}

// A warp a channel, whose columns are c, c + C, ... of all stretches: the mean of their means, then their squares about it.
extern "C" __global__ void batch_norm_join(const A* __restrict__ partial, A* __restrict__ mean, A* __restrict__ invstd, int C, int wide,
        int parts, double eps) {
    const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    const Index step = (Index)parts * wide, columns = step / C;
    for (int c = blockIdx.x * warps + (threadIdx.x >> 5); c < C; c += gridDim.x * warps) {
        double count = 0, sum = 0, square = 0;
        for (Index i = lane; i < columns; i += 32) {
            const double own = partial[i * C + c];
            count += own;
            sum += own * double(partial[step + i * C + c]);
        }
        count = warp_sum(count);
        const double centre = warp_sum(sum) / count;
        for (Index i = lane; i < columns; i += 32) {
            const double own = partial[i * C + c], delta = double(partial[step + i * C + c]) - centre;
            if (own > 0) square += double(partial[2 * step + i * C + c]) + own * delta * delta;
        }
        square = warp_sum(square);
        if (lane == 0) {
            mean[c] = A(centre);
            invstd[c] = A(1 / sqrt(square / count + eps));
        }
    }
}

// Both running statistics move by `momentum` towards a batch's; correction: count / (count - 1), or 1.  In one launch: array by array
// it would be a dozen, each longer on the way than at work.
extern "C" __global__ void running_stats(A* running_mean, A* running_var, const A* __restrict__ mean, const A* __restrict__ invstd, int C,
        A momentum, A eps, A correction) {
    GRID_STRIDE(c, C) {
        const A var = A(1) / (invstd[c] * invstd[c]) - eps;
        running_mean[c] = (A(1) - momentum) * running_mean[c] + momentum * mean[c];
        running_var[c] = (A(1) - momentum) * running_var[c] + momentum * (var > A(0) || var != var ? var * correction : A(0));
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

// What a channel's numbers become: (x - mean) * scale + bias, then + residual and ReLU where asked for.
struct Channel { A mean, scale, bias; };
__device__ __forceinline__ Channel channel_of(const A* mean, const A* spread, const A* w, const A* b, int c, A eps) {
    const A scale = eps < A(0) ? spread[c] : A(1) / square_root(spread[c] + eps);
    return {mean[c], w ? scale * w[c] : scale, b ? b[c] : A(0)};
}
__device__ __forceinline__ A normalised(A x, Channel k, A residual, int relu) {
    const A value = (x - k.mean) * k.scale + k.bias + residual;
    return relu && value < A(0) ? A(0) : value;
}

// spread: 1/std, or with eps >= 0 the variance.  w, b and residual may be null.
extern "C" __global__ void batch_norm_apply_naive(const T* __restrict__ x, const A* __restrict__ mean, const A* __restrict__ spread,
        const A* __restrict__ w, const A* __restrict__ b, const T* __restrict__ residual, T* __restrict__ y, Index n, int C, A eps, int relu) {
    GRID_STRIDE(i, n) {
        const Channel k = channel_of(mean, spread, w, b, i % C, eps);
        y[i] = T(normalised(A(x[i]), k, residual ? A(residual[i]) : A(0), relu));
    }
}

// The same for C that PACK divides.
extern "C" __global__ void batch_norm_apply(const T* __restrict__ x, const A* __restrict__ mean, const A* __restrict__ spread,
        const A* __restrict__ w, const A* __restrict__ b, const T* __restrict__ residual, T* __restrict__ y, Index n, int C, A eps, int relu) {
    PACKS_OF_CHANNELS(p, c, n, C) {
        Pack v = reinterpret_cast<const Pack*>(x)[p], other;
        if (residual) other = reinterpret_cast<const Pack*>(residual)[p];
#pragma unroll
        for (int e = 0; e < PACK; e++) {
            const Channel k = channel_of(mean, spread, w, b, c + e, eps);
            v.v[e] = T(normalised(A(v.v[e]), k, residual ? A(other.v[e]) : A(0), relu));
        }
        reinterpret_cast<Pack*>(y)[p] = v;
    }
}

// Sums of g and g * (x - mean) over rows, where g is gy, or with ReLU gy where y > 0: partial (2, parts, wide).
extern "C" __global__ void __launch_bounds__(256, 2) batch_norm_grad_sums(const T* __restrict__ gy, const T* __restrict__ x,
        const T* __restrict__ y, const A* __restrict__ mean, A* __restrict__ partial, Index n, int C, int wide, int rows_per_block) {
    __shared__ A shared[2][LANES][TILE * PACK];
    const int column = (blockIdx.x * TILE + threadIdx.x) * PACK;
    const Stretch s(n, wide, rows_per_block);
    A centre[PACK], sum[PACK], along[PACK];
#pragma unroll
    for (int e = 0; e < PACK; e++) {
        centre[e] = column < wide ? mean[(column + e) % C] : A(0);
        sum[e] = along[e] = A(0);
    }
    if (column < wide) {
        Index row = s.begin + threadIdx.y;
        const Index full = s.with(column, PACK);
#pragma unroll 2
        for (; row < full; row += LANES) {
            const Index p = (row * wide + column) / PACK;
            const Pack g = reinterpret_cast<const Pack*>(gy)[p], v = reinterpret_cast<const Pack*>(x)[p];
            const Pack sign = y ? reinterpret_cast<const Pack*>(y)[p] : g;
#pragma unroll
            for (int e = 0; e < PACK; e++) {
                const A own = !y || A(sign.v[e]) > A(0) ? A(g.v[e]) : A(0);
                sum[e] += own;
                along[e] += own * (A(v.v[e]) - centre[e]);
            }
        }
        if (row < s.end)
#pragma unroll
            for (int e = 0; e < PACK; e++) {
                const Index i = row * wide + column + e;
                const A own = i < n && (!y || A(y[i]) > A(0)) ? A(gy[i]) : A(0);
                sum[e] += own;
                along[e] += i < n ? own * (A(x[i]) - centre[e]) : A(0);
            }
    }
#pragma unroll
    for (int e = 0; e < PACK; e++) {
        shared[0][threadIdx.y][threadIdx.x * PACK + e] = sum[e];
        shared[1][threadIdx.y][threadIdx.x * PACK + e] = along[e];
    }
    __syncthreads();
    for (int e = threadIdx.y * TILE + threadIdx.x; e < TILE * PACK; e += TILE * LANES) {
        A total[2] = {A(0), A(0)};
        for (int lane = 0; lane < LANES; lane++)
            for (int k = 0; k < 2; k++) total[k] += shared[k][lane][e];
        const int own = blockIdx.x * TILE * PACK + e;
        if (own < wide)
            for (int k = 0; k < 2; k++) partial[((Index)k * gridDim.y + blockIdx.y) * wide + own] = total[k];
    }
}

// gw = invstd * sum(g * (x - mean)), gb = sum(g), and of each channel three numbers (3, C) with which
// gx = g*factors[0] + (x-mean)*factors[1] + factors[2].  A warp a channel.
extern "C" __global__ void batch_norm_grad_join(const A* __restrict__ partial, const A* __restrict__ invstd, const A* __restrict__ w,
        A* __restrict__ gw, A* __restrict__ gb, A* __restrict__ factors, int C, int wide, int parts, double count) {
    const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    const Index step = (Index)parts * wide, columns = step / C;
    for (int c = blockIdx.x * warps + (threadIdx.x >> 5); c < C; c += gridDim.x * warps) {
        double sum = 0, along = 0;
        for (Index i = lane; i < columns; i += 32) {
            sum += partial[i * C + c];
            along += partial[step + i * C + c];
        }
        sum = warp_sum(sum);
        along = warp_sum(along) * double(invstd[c]);
        if (lane == 0) {
            const double scale = double(invstd[c]) * (w ? double(w[c]) : 1.0);
            gb[c] = A(sum);
            gw[c] = A(along);
            factors[c] = A(scale);
            factors[C + c] = A(-scale * double(invstd[c]) * along / count);
            factors[2 * C + c] = A(-scale * sum / count);
        }
    }
}

extern "C" __global__ void batch_norm_grad_apply_naive(const T* __restrict__ gy, const T* __restrict__ x, const T* __restrict__ y,
        const A* __restrict__ mean, const A* __restrict__ factors, T* __restrict__ gx, T* __restrict__ gresidual, Index n, int C) {
    GRID_STRIDE(i, n) {
        const int c = i % C;
        const A g = !y || A(y[i]) > A(0) ? A(gy[i]) : A(0);
        gx[i] = T(g * factors[c] + (A(x[i]) - mean[c]) * factors[C + c] + factors[2 * C + c]);
        if (gresidual) gresidual[i] = T(g);
    }
}

extern "C" __global__ void batch_norm_grad_apply(const T* __restrict__ gy, const T* __restrict__ x, const T* __restrict__ y,
        const A* __restrict__ mean, const A* __restrict__ factors, T* __restrict__ gx, T* __restrict__ gresidual, Index n, int C) {
    PACKS_OF_CHANNELS(p, c, n, C) {
        Pack g = reinterpret_cast<const Pack*>(gy)[p], v = reinterpret_cast<const Pack*>(x)[p];
        if (y) {
            const Pack sign = reinterpret_cast<const Pack*>(y)[p];
#pragma unroll
            for (int e = 0; e < PACK; e++) g.v[e] = A(sign.v[e]) > A(0) ? g.v[e] : T(0);
        }
        if (gresidual) reinterpret_cast<Pack*>(gresidual)[p] = g;
#pragma unroll
        for (int e = 0; e < PACK; e++)
            v.v[e] = T(A(g.v[e]) * factors[c + e] + (A(v.v[e]) - mean[c + e]) * factors[C + c + e] + factors[2 * C + c + e]);
        reinterpret_cast<Pack*>(gx)[p] = v;
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
