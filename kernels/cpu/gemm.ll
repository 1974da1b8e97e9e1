; A matrix product in parts: thread %thread does the jobs %thread, %thread + %threads, ... by a call of BLAS each.
;
; %table: the address of cblas_Xgemm (64-bit integers), how many jobs there are, then 11 numbers a job:
; transpose a, transpose b (CBLAS's codes), m, n, k, a, lda, b, ldb, c, ldc.  gemm.py fills it in.
define void @gemm_jobs(ptr %table, i64 %thread, i64 %threads) {
start:
  %blas = load ptr, ptr %table
  %jobs.at = getelementptr i64, ptr %table, i64 1
  %jobs = load i64, ptr %jobs.at
  br label %look
look:
  %job = phi i64 [ %thread, %start ], [ %next, %do ]
  %more = icmp slt i64 %job, %jobs
  br i1 %more, label %do, label %return
do:
  %offset = mul i64 %job, 11
  %first = add i64 %offset, 2
  %at0 = getelementptr i64, ptr %table, i64 %first
  %ta64 = load i64, ptr %at0
  %ta = trunc i64 %ta64 to i32
  %at1 = getelementptr i64, ptr %at0, i64 1
  %tb64 = load i64, ptr %at1
  %tb = trunc i64 %tb64 to i32
  %at2 = getelementptr i64, ptr %at0, i64 2
  %m = load i64, ptr %at2
  %at3 = getelementptr i64, ptr %at0, i64 3
  %n = load i64, ptr %at3
  %at4 = getelementptr i64, ptr %at0, i64 4
  %k = load i64, ptr %at4
  %at5 = getelementptr i64, ptr %at0, i64 5
  %a = load ptr, ptr %at5
  %at6 = getelementptr i64, ptr %at0, i64 6
  %lda = load i64, ptr %at6
  %at7 = getelementptr i64, ptr %at0, i64 7
  %b = load ptr, ptr %at7
  %at8 = getelementptr i64, ptr %at0, i64 8
  %ldb = load i64, ptr %at8
  %at9 = getelementptr i64, ptr %at0, i64 9
  %c = load ptr, ptr %at9
  %at10 = getelementptr i64, ptr %at0, i64 10
  %ldc = load i64, ptr %at10
  call void %blas(i32 101, i32 %ta, i32 %tb, i64 %m, i64 %n, i64 %k, FLOAT 1.0, ptr %a, i64 %lda, ptr %b, i64 %ldb, FLOAT 0.0, ptr %c, i64 %ldc)
  %next = add i64 %job, %threads
  br label %look
return:
  ret void
}
