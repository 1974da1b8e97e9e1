// attention.cu - y = softmax(scale q k') v of every head, and its gradients.  q, y (N, L, heads, E), k, v (N, S, heads, E): where a
// projection wrote them.
//
//   naive   the weights (N, heads, L, S) go to memory and come back: a thread a row of them, a thread an element of every product
//   cuda    the weights never leave the processor (Dao et al. 2022, 2023: FlashAttention).  A block keeps a tile of queries and walks over
//           tiles of keys; the softmax is corrected as larger scores appear (Milakov & Gimelshein 2018).  What is kept of a row is the
//           logarithm of its sum, L numbers instead of L S.  The backward pass computes the weights again, twice: once by tiles of
//           queries for gq, once by tiles of keys for gk and gv.  No atomics, the same bits every time.
//
// 256 threads are 16 x 16: a thread has some rows of the block's own tile, and a sixteenth of the other tile or of the columns of E.
// The sixteen threads of a row are half a warp, so its maximum and its sums are shuffles.
#include "common.cuh"

constexpr int SIDE = 16;                                        // of the square of threads
template <int N> struct alignas(N * sizeof(A) < 16 ? N * sizeof(A) : 16) Some { A v[N]; };     // read in one access, or two of doubles
typedef Some<4> Four;

__device__ __forceinline__ A lowest() { return A(__int_as_float(0xff800000)); }              // -infinity

template <class V> __device__ __forceinline__ V row_sum(V v) {
#pragma unroll
    for (int bits = SIDE / 2; bits; bits >>= 1) v += __shfl_xor_sync(0xffffffffu, v, bits);
    return v;
}
__device__ __forceinline__ A row_max(A v) {
#pragma unroll
    for (int bits = SIDE / 2; bits; bits >>= 1) {
        const A other = __shfl_xor_sync(0xffffffffu, v, bits);
        v = other > v ? other : v;
    }
    return v;
}

// Where head `head` of an image lies in an array (N, length, heads, size).
struct Head { int image, head, heads, size; };
__device__ __forceinline__ Index place(Head h, int length, int row) { return (((Index)h.image * length + row) * h.heads + h.head) * h.size; }

__device__ __forceinline__ Head head_of(Index number, int heads, int size) { return {int(number / heads), int(number % heads), heads, size}; }

// ---- naive -----------------------------------------------------------------------------------------------------------------------
__device__ __forceinline__ A dot(const T* a, const T* b, int size) {
    A sum = 0;
    for (int e = 0; e < size; e++) sum += A(a[e]) * A(b[e]);
    return sum;
}

// Row (image, head, query) of the weights (N, heads, L, S).
extern "C" __global__ void attention_weights_naive(const T* __restrict__ q, const T* __restrict__ k, A* __restrict__ weights, Index rows,
        int heads, int queries, int keys, int size, A scale) {
    GRID_STRIDE(row, rows) {
        const Head h = head_of(row / queries, heads, size);
        const T* query = q + place(h, queries, row % queries);
        A* w = weights + row * keys;
        A top = lowest(), total = 0;
        for (int j = 0; j < keys; j++) {
            w[j] = scale * dot(query, k + place(h, keys, j), size);
            top = w[j] > top ? w[j] : top;
        }
        for (int j = 0; j < keys; j++) {
            w[j] = exponential(w[j] - top);
            total += w[j];
        }
        for (int j = 0; j < keys; j++) w[j] /= total;
    }
}

// gs = scale * w * (g v' - the mean that w gives it), a row a thread.
extern "C" __global__ void attention_slopes_naive(const T* __restrict__ g, const T* __restrict__ v, const A* __restrict__ weights,
        A* __restrict__ slopes, Index rows, int heads, int queries, int keys, int size, A scale) {
    GRID_STRIDE(row, rows) {
        const Head h = head_of(row / queries, heads, size);
        const T* own = g + place(h, queries, row % queries);
        A mean = 0;
        for (int j = 0; j < keys; j++) {
            const A gain = dot(own, v + place(h, keys, j), size);
            slopes[row * keys + j] = gain;
            mean += weights[row * keys + j] * gain;
        }
        for (int j = 0; j < keys; j++) slopes[row * keys + j] = scale * weights[row * keys + j] * (slopes[row * keys + j] - mean);
    }
}

// y[i] = sum over j of m[i][j] x[j] for the matrices m (rows, terms) of all heads; turned: of m[j][i].
extern "C" __global__ void attention_mix_naive(const A* __restrict__ m, const T* __restrict__ x, T* __restrict__ y, Index n, int heads, int rows,
        int terms, int size, int turned) {
    GRID_STRIDE(i, n) {
        const int e = i % size, head = i / size % heads, row = i / ((Index)size * heads) % rows;
        const Head h = {int(i / ((Index)size * heads * rows)), head, heads, size};
        const A* own = m + ((Index)h.image * heads + head) * rows * terms;
        A sum = 0;
        for (int j = 0; j < terms; j++) sum += own[turned ? (Index)j * rows + row : (Index)row * terms + j] * A(x[place(h, terms, j) + e]);
        y[i] = T(sum);
    }
}

// ---- cuda ------------------------------------------------------------------------------------------------------------------------
// E: the columns of a tile, at least h.size; ROWS of them.  Four more numbers in a row spread the rows over the banks.
template <int E, int ROWS> struct alignas(16) Tile {
    A v[ROWS][E + 4];

    // Rows first .. of an array; what lies outside of it is 0.
    __device__ __forceinline__ void load(const T* __restrict__ x, Head h, int length, int first) {
        for (int i = threadIdx.x; i < ROWS * E; i += SIDE * SIDE) {
            const int row = i / E, e = i % E;
            v[row][e] = first + row < length && e < h.size ? A(x[place(h, length, first + row) + e]) : A(0);
        }
    }
    __device__ __forceinline__ Four four(int row, int e) const { return *reinterpret_cast<const Four*>(&v[row][e]); }
};

// out[r][c] = own row (mine + r) . other row (c * SIDE + theirs): scores.
template <int E, int R, int C, class Own, class Other>
__device__ __forceinline__ void products(const Own& own, int mine, const Other& other, int theirs, A (&out)[R][C]) {
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int c = 0; c < C; c++) out[r][c] = A(0);
#pragma unroll 4
    for (int e = 0; e < E; e += 4) {
        Four a[R], b[C];
#pragma unroll
        for (int r = 0; r < R; r++) a[r] = own.four(mine + r, e);
#pragma unroll
        for (int c = 0; c < C; c++) b[c] = other.four(c * SIDE + theirs, e);
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int c = 0; c < C; c++)
#pragma unroll
                for (int k = 0; k < 4; k++) out[r][c] += a[r].v[k] * b[c].v[k];
    }
}

// The columns of E that a thread has: groups of neighbours, so that a warp reads what lies together.
template <int E> struct Columns {
    static constexpr int COUNT = E / SIDE, GROUP = COUNT < 4 ? COUNT : 4;
    static __device__ __forceinline__ int of(int j) { return j / GROUP * GROUP * SIDE + (threadIdx.x % SIDE) * GROUP + j % GROUP; }
    typedef Some<GROUP> Group;
};

// sums[r][j] += sum over the tile's rows i of weights[mine + r][i] * tile[i][column j].
template <int E, int R, int ROWS, class Weights>
__device__ __forceinline__ void mix(const Weights& weights, int mine, const Tile<E, ROWS>& tile, A (&sums)[R][E / SIDE]) {
#pragma unroll 2
    for (int i = 0; i < ROWS; i += 4) {
        Four w[R];
#pragma unroll
        for (int r = 0; r < R; r++) w[r] = weights.four(mine + r, i);
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int j = 0; j < E / SIDE; j += Columns<E>::GROUP) {
                typedef typename Columns<E>::Group Group;
                const Group values = *reinterpret_cast<const Group*>(&tile.v[i + k][Columns<E>::of(j)]);
#pragma unroll
                for (int r = 0; r < R; r++)
#pragma unroll
                    for (int n = 0; n < Columns<E>::GROUP; n++) sums[r][j + n] += w[r].v[k] * values.v[n];
            }
    }
}

template <int E, int R>
__device__ __forceinline__ void store(T* __restrict__ y, Head h, int length, int first, const A (&sums)[R][E / SIDE], const A (&factor)[R]) {
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int j = 0; j < E / SIDE; j++)
            if (first + r < length && Columns<E>::of(j) < h.size)
                y[place(h, length, first + r) + Columns<E>::of(j)] = T(sums[r][j] * factor[r]);
}

// As many rows as 48 KB of shared memory hold with two tiles (forward) or four (backward) and the weights.
template <int E> struct Forward {
    static constexpr int BYTES = E * sizeof(A), OWN = BYTES <= 256 ? 64 : 32, OTHER = 32;
};
template <int E> struct Backward {
    static constexpr int BYTES = E * sizeof(A), ROWS = BYTES <= 256 && sizeof(A) == 4 ? 32 : 16;
};

// Block (head of an image, tile of queries).  log_sums (N, heads, L): log of the sum of exp(scale q k').
template <int E>
__device__ __forceinline__ void forward(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ y,
        A* __restrict__ log_sums, int heads, int queries, int keys, int size, A scale) {
    if constexpr (Forward<E>::BYTES <= 512) {
        constexpr int OWN = Forward<E>::OWN, OTHER = Forward<E>::OTHER, R = OWN / SIDE, C = OTHER / SIDE;
        __shared__ Tile<E, OWN> own;
        __shared__ Tile<E, OTHER> other;                        // keys, then their values
        __shared__ Tile<OTHER, OWN> weights;
        const Head h = head_of(blockIdx.x, heads, size);
        const int first = blockIdx.y * OWN, mine = threadIdx.x / SIDE * R, theirs = threadIdx.x % SIDE;
        A top[R], total[R], sums[R][E / SIDE];
#pragma unroll
        for (int r = 0; r < R; r++) {
            top[r] = lowest();
            total[r] = A(0);
#pragma unroll
            for (int j = 0; j < E / SIDE; j++) sums[r][j] = A(0);
        }
        own.load(q, h, queries, first);
        for (int start = 0; start < keys; start += OTHER) {
            other.load(k, h, keys, start);
            __syncthreads();
            A scores[R][C];
            products<E>(own, mine, other, theirs, scores);
#pragma unroll
            for (int r = 0; r < R; r++) {
                A largest = lowest();
#pragma unroll
                for (int c = 0; c < C; c++) {
                    scores[r][c] = start + c * SIDE + theirs < keys ? scores[r][c] * scale : lowest();
                    largest = scores[r][c] > largest ? scores[r][c] : largest;
                }
                largest = row_max(largest);
                largest = largest > top[r] ? largest : top[r];
                const A base = largest == lowest() ? A(0) : largest, keep = exponential(top[r] - base);
                A sum = 0;
#pragma unroll
                for (int c = 0; c < C; c++) {
                    const A weight = exponential(scores[r][c] - base);
                    weights.v[mine + r][c * SIDE + theirs] = weight;
                    sum += weight;
                }
                total[r] = total[r] * keep + row_sum(sum);
                top[r] = largest;
#pragma unroll
                for (int j = 0; j < E / SIDE; j++) sums[r][j] *= keep;
            }
            __syncthreads();                                    // nobody reads the keys any more
            other.load(v, h, keys, start);
            __syncthreads();
            mix<E>(weights, mine, other, sums);
            __syncthreads();
        }
        A factor[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            factor[r] = A(1) / total[r];
            if (theirs == 0 && first + mine + r < queries) log_sums[(Index)blockIdx.x * queries + first + mine + r] = top[r] + logarithm(total[r]);
        }
        store<E>(y, h, queries, first + mine, sums, factor);
    }
}

// Block (head of an image, tile of queries): gq, and level (N, heads, L), the mean that the weights give to g v'.
// gs = scale w (g v' - level), so that gq = scale (sum of w (g v') k - level * sum of w k): one walk over the keys finds all three.
template <int E>
__device__ __forceinline__ void grad_queries(const T* __restrict__ g, const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
        const A* __restrict__ log_sums, T* __restrict__ gq, A* __restrict__ level, int heads, int queries, int keys, int size, A scale) {
    if constexpr (Backward<E>::BYTES <= 512) {
        constexpr int ROWS = Backward<E>::ROWS, R = ROWS / SIDE;
        __shared__ Tile<E, ROWS> own_q, own_g, other_k, other_v;
        __shared__ Tile<ROWS, ROWS> weights, pulls;
        const Head h = head_of(blockIdx.x, heads, size);
        const int first = blockIdx.y * ROWS, mine = threadIdx.x / SIDE * R, theirs = threadIdx.x % SIDE;
        A log_sum[R], mean[R], along[R][E / SIDE], centre[R][E / SIDE];
#pragma unroll
        for (int r = 0; r < R; r++) {
            log_sum[r] = first + mine + r < queries ? log_sums[(Index)blockIdx.x * queries + first + mine + r] : A(0);
            mean[r] = A(0);
#pragma unroll
            for (int j = 0; j < E / SIDE; j++) along[r][j] = centre[r][j] = A(0);
        }
        own_q.load(q, h, queries, first);
        own_g.load(g, h, queries, first);
        for (int start = 0; start < keys; start += ROWS) {
            other_k.load(k, h, keys, start);
            other_v.load(v, h, keys, start);
            __syncthreads();
            A scores[R][R], gains[R][R];
            products<E>(own_q, mine, other_k, theirs, scores);
            products<E>(own_g, mine, other_v, theirs, gains);
#pragma unroll
            for (int r = 0; r < R; r++)
#pragma unroll
                for (int c = 0; c < R; c++) {
                    const A weight = start + c * SIDE + theirs < keys ? exponential(scores[r][c] * scale - log_sum[r]) : A(0);
                    mean[r] += weight * gains[r][c];
                    weights.v[mine + r][c * SIDE + theirs] = weight;
                    pulls.v[mine + r][c * SIDE + theirs] = weight * gains[r][c];
                }
            __syncwarp();                                       // a row of weights is read by the half warp that wrote it
            mix<E>(pulls, mine, other_k, along);
            mix<E>(weights, mine, other_k, centre);
            __syncthreads();
        }
        A factor[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            factor[r] = scale;
            mean[r] = row_sum(mean[r]);
            if (theirs == 0 && first + mine + r < queries) level[(Index)blockIdx.x * queries + first + mine + r] = mean[r];
#pragma unroll
            for (int j = 0; j < E / SIDE; j++) along[r][j] -= mean[r] * centre[r][j];
        }
        store<E>(gq, h, queries, first + mine, along, factor);
    }
}

// Block (head of an image, tile of keys): gk = gs' q and gv = w' g.
template <int E>
__device__ __forceinline__ void grad_keys(const T* __restrict__ g, const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
        const A* __restrict__ log_sums, const A* __restrict__ level, T* __restrict__ gk, T* __restrict__ gv, int heads, int queries, int keys,
        int size, A scale) {
    if constexpr (Backward<E>::BYTES <= 512) {
        constexpr int ROWS = Backward<E>::ROWS, R = ROWS / SIDE;
        __shared__ Tile<E, ROWS> own_k, own_v, other_q, other_g;
        __shared__ Tile<ROWS, ROWS> weights, slopes;
        const Head h = head_of(blockIdx.x, heads, size);
        const int first = blockIdx.y * ROWS, mine = threadIdx.x / SIDE * R, theirs = threadIdx.x % SIDE;
        A by_key[R][E / SIDE], by_value[R][E / SIDE], one[R], factor[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            one[r] = A(1);
            factor[r] = scale;
#pragma unroll
            for (int j = 0; j < E / SIDE; j++) by_key[r][j] = by_value[r][j] = A(0);
        }
        own_k.load(k, h, keys, first);
        own_v.load(v, h, keys, first);
        for (int start = 0; start < queries; start += ROWS) {
            other_q.load(q, h, queries, start);
            other_g.load(g, h, queries, start);
            __syncthreads();
            A scores[R][R], gains[R][R];
            products<E>(own_k, mine, other_q, theirs, scores);
            products<E>(own_v, mine, other_g, theirs, gains);
#pragma unroll
            for (int c = 0; c < R; c++) {
                const int query = start + c * SIDE + theirs;
                const Index row = (Index)blockIdx.x * queries + query;
                const A log_sum = query < queries ? log_sums[row] : A(0), mean = query < queries ? level[row] : A(0);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    const A weight = query < queries ? exponential(scores[r][c] * scale - log_sum) : A(0);
                    weights.v[mine + r][c * SIDE + theirs] = weight;
                    slopes.v[mine + r][c * SIDE + theirs] = weight * (gains[r][c] - mean);
                }
            }
            __syncwarp();
            mix<E>(weights, mine, other_g, by_value);
            mix<E>(slopes, mine, other_q, by_key);
            __syncthreads();
        }
        store<E>(gk, h, keys, first + mine, by_key, factor);
        store<E>(gv, h, keys, first + mine, by_value, one);
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) attention_32(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
        T* __restrict__ y, A* __restrict__ log_sums, int heads, int queries, int keys, int size, A scale) {
    forward<32>(q, k, v, y, log_sums, heads, queries, keys, size, scale);
}
extern "C" __global__ void __launch_bounds__(256, 2) attention_64(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
        T* __restrict__ y, A* __restrict__ log_sums, int heads, int queries, int keys, int size, A scale) {
    forward<64>(q, k, v, y, log_sums, heads, queries, keys, size, scale);
}
extern "C" __global__ void __launch_bounds__(256, 2) attention_128(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
        T* __restrict__ y, A* __restrict__ log_sums, int heads, int queries, int keys, int size, A scale) {
    forward<128>(q, k, v, y, log_sums, heads, queries, keys, size, scale);
}

extern "C" __global__ void __launch_bounds__(256, 2) attention_grad_queries_32(const T* __restrict__ g, const T* __restrict__ q,
        const T* __restrict__ k, const T* __restrict__ v, const A* __restrict__ log_sums, T* __restrict__ gq, A* __restrict__ level, int heads,
        int queries, int keys, int size, A scale) {
    grad_queries<32>(g, q, k, v, log_sums, gq, level, heads, queries, keys, size, scale);
}
extern "C" __global__ void __launch_bounds__(256, 2) attention_grad_queries_64(const T* __restrict__ g, const T* __restrict__ q,
        const T* __restrict__ k, const T* __restrict__ v, const A* __restrict__ log_sums, T* __restrict__ gq, A* __restrict__ level, int heads,
        int queries, int keys, int size, A scale) {
    grad_queries<64>(g, q, k, v, log_sums, gq, level, heads, queries, keys, size, scale);
}
extern "C" __global__ void __launch_bounds__(256, 2) attention_grad_queries_128(const T* __restrict__ g, const T* __restrict__ q,
        const T* __restrict__ k, const T* __restrict__ v, const A* __restrict__ log_sums, T* __restrict__ gq, A* __restrict__ level, int heads,
        int queries, int keys, int size, A scale) {
    grad_queries<128>(g, q, k, v, log_sums, gq, level, heads, queries, keys, size, scale);
}

extern "C" __global__ void __launch_bounds__(256, 2) attention_grad_keys_32(const T* __restrict__ g, const T* __restrict__ q,
        const T* __restrict__ k, const T* __restrict__ v, const A* __restrict__ log_sums, const A* __restrict__ level, T* __restrict__ gk,
        T* __restrict__ gv, int heads, int queries, int keys, int size, A scale) {
    grad_keys<32>(g, q, k, v, log_sums, level, gk, gv, heads, queries, keys, size, scale);
}
extern "C" __global__ void __launch_bounds__(256, 2) attention_grad_keys_64(const T* __restrict__ g, const T* __restrict__ q,
        const T* __restrict__ k, const T* __restrict__ v, const A* __restrict__ log_sums, const A* __restrict__ level, T* __restrict__ gk,
        T* __restrict__ gv, int heads, int queries, int keys, int size, A scale) {
    grad_keys<64>(g, q, k, v, log_sums, level, gk, gv, heads, queries, keys, size, scale);
}
extern "C" __global__ void __launch_bounds__(256, 2) attention_grad_keys_128(const T* __restrict__ g, const T* __restrict__ q,
        const T* __restrict__ k, const T* __restrict__ v, const A* __restrict__ log_sums, const A* __restrict__ level, T* __restrict__ gk,
        T* __restrict__ gv, int heads, int queries, int keys, int size, A scale) {
    grad_keys<128>(g, q, k, v, log_sums, level, gk, gv, heads, queries, keys, size, scale);
}
