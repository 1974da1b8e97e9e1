; The fork-join pool.  Workers are Python threads that enter @pool_worker once and stay; @pool_run hands them a kernel,
; takes part itself and returns when all have finished.  Whoever waits spins for a short while, then sleeps on a lock of the
; interpreter (PyThread_*), so an idle pool costs nothing.
;
; A sleeper announces itself in its `sleeping` flag and then looks once more at what it waits for.  Whoever wakes it takes the
; flag back with an exchange and, if it was up, releases the lock.  Exactly one side sees the flag up, so no wake-up is lost
; and none is left over: a sleeper that changes its mind but finds its flag taken must still consume the release.
;
; What the two sides write lies on separate cache lines (64 bytes).  threads.py fills this in:
%Shared = type { ptr, ptr, i64, i64, ptr, ptr, i64, i64,   ; 0 kernel, 1 arguments, 2 threads, 3 spins, 4 acquire, 5 release, 6 stop
                 i64, [7 x i64],                           ; 8 generation: counts the calls of @pool_run
                 i64, [7 x i64],                           ; 10 pending: workers that have not finished
                 %Sleeper }                                ; 12 the caller
%Sleeper = type { i64, ptr, [6 x i64] }                    ; 0 sleeping, 1 lock; worker i is number i of an array after %Shared

PAUSE_DECLARATION

define internal void @sleep(ptr %s, ptr %sleeper) noinline {
  %acquire.at = getelementptr %Shared, ptr %s, i64 0, i32 4
  %acquire = load ptr, ptr %acquire.at
  %lock.at = getelementptr %Sleeper, ptr %sleeper, i64 0, i32 1
  %lock = load ptr, ptr %lock.at
  %ok = call i32 %acquire(ptr %lock, i32 1)
  ret void
}

; Waits until the integer at %address is (or, with %until_equal false, is no longer) %value.
define internal void @wait(ptr %s, ptr %sleeper, ptr %address, i64 %value, i1 %until_equal) noinline {
start:
  %spins.at = getelementptr %Shared, ptr %s, i64 0, i32 3
  %spins = load i64, ptr %spins.at
  br label %look
look:
  %k = phi i64 [ 0, %start ], [ %k.next, %pause ], [ 0, %asleep ]
  %seen = load atomic i64, ptr %address acquire, align 8
  %equal = icmp eq i64 %seen, %value
  %done = icmp eq i1 %equal, %until_equal
  br i1 %done, label %return, label %pause
pause:
  PAUSE_CALL
  %k.next = add i64 %k, 1
  %again = icmp slt i64 %k.next, %spins
  br i1 %again, label %look, label %announce
announce:
  store atomic i64 1, ptr %sleeper seq_cst, align 8
  %seen2 = load atomic i64, ptr %address seq_cst, align 8
  %equal2 = icmp eq i64 %seen2, %value
  %done2 = icmp eq i1 %equal2, %until_equal
  br i1 %done2, label %withdraw, label %asleep
asleep:
  call void @sleep(ptr %s, ptr %sleeper)
  br label %look
withdraw:
  %flag = atomicrmw xchg ptr %sleeper, i64 0 seq_cst
  %mine = icmp eq i64 %flag, 1
  br i1 %mine, label %return, label %consume
consume:
  call void @sleep(ptr %s, ptr %sleeper)
  br label %return
return:
  ret void
}

define internal void @wake(ptr %s, ptr %sleeper) {
start:
  %flag = atomicrmw xchg ptr %sleeper, i64 0 seq_cst
  %asleep = icmp eq i64 %flag, 1
  br i1 %asleep, label %release, label %return
release:
  %release.at = getelementptr %Shared, ptr %s, i64 0, i32 5
  %call = load ptr, ptr %release.at
  %lock.at = getelementptr %Sleeper, ptr %sleeper, i64 0, i32 1
  %lock = load ptr, ptr %lock.at
  call void %call(ptr %lock)
  br label %return
return:
  ret void
}

; The life of worker %id (1, 2, ...).
define void @pool_worker(ptr %s, i64 %id, i64 %unused) {
start:
  %generation.at = getelementptr %Shared, ptr %s, i64 0, i32 8
  %pending.at = getelementptr %Shared, ptr %s, i64 0, i32 10
  %caller = getelementptr %Shared, ptr %s, i64 0, i32 12
  %me = getelementptr %Sleeper, ptr %caller, i64 %id
  br label %next
next:
  %seen = phi i64 [ 0, %start ], [ %generation, %done ]
  call void @wait(ptr %s, ptr %me, ptr %generation.at, i64 %seen, i1 false)
  %generation = load atomic i64, ptr %generation.at acquire, align 8
  %kernel = load ptr, ptr %s
  %arguments.at = getelementptr %Shared, ptr %s, i64 0, i32 1
  %arguments = load ptr, ptr %arguments.at
  %threads.at = getelementptr %Shared, ptr %s, i64 0, i32 2
  %threads = load i64, ptr %threads.at
  %stop.at = getelementptr %Shared, ptr %s, i64 0, i32 6
  %stop = load i64, ptr %stop.at
  %stopping = icmp ne i64 %stop, 0
  br i1 %stopping, label %finished, label %work
work:
  call void %kernel(ptr %arguments, i64 %id, i64 %threads)
  br label %finished
finished:
  %left = atomicrmw sub ptr %pending.at, i64 1 seq_cst
  %is.last = icmp eq i64 %left, 1
  br i1 %is.last, label %last, label %done
last:
  call void @wake(ptr %s, ptr %caller)
  br label %done
done:
  br i1 %stopping, label %return, label %next
return:
  ret void
}

; Runs %kernel(%arguments, t, threads) for every t.
define void @pool_run(ptr %s, ptr %kernel, ptr %arguments) {
start:
  %threads.at = getelementptr %Shared, ptr %s, i64 0, i32 2
  %threads = load i64, ptr %threads.at
  %workers = sub i64 %threads, 1
  %arguments.at = getelementptr %Shared, ptr %s, i64 0, i32 1
  %generation.at = getelementptr %Shared, ptr %s, i64 0, i32 8
  %pending.at = getelementptr %Shared, ptr %s, i64 0, i32 10
  %caller = getelementptr %Shared, ptr %s, i64 0, i32 12
  store ptr %kernel, ptr %s
  store ptr %arguments, ptr %arguments.at
  store atomic i64 %workers, ptr %pending.at seq_cst, align 8
  %before = atomicrmw add ptr %generation.at, i64 1 seq_cst
  br label %loop
loop:
  %i = phi i64 [ 1, %start ], [ %i.next, %rouse ]
  %some = icmp slt i64 %i, %threads
  br i1 %some, label %rouse, label %share
rouse:
  %worker = getelementptr %Sleeper, ptr %caller, i64 %i
  call void @wake(ptr %s, ptr %worker)
  %i.next = add i64 %i, 1
  br label %loop
share:
  call void %kernel(ptr %arguments, i64 0, i64 %threads)
  call void @wait(ptr %s, ptr %caller, ptr %pending.at, i64 0, i1 true)
  ret void
}

; A kernel that does nothing, and one that waits for *arguments turns of the spinning loop.
define void @pool_nothing(ptr %arguments, i64 %thread, i64 %threads) {
  ret void
}

define void @pool_spin(ptr %arguments, i64 %thread, i64 %threads) {
start:
  %turns = load i64, ptr %arguments
  br label %loop
loop:
  %k = phi i64 [ 0, %start ], [ %k.next, %loop ]
  PAUSE_CALL
  %k.next = add i64 %k, 1
  %again = icmp slt i64 %k.next, %turns
  br i1 %again, label %loop, label %return
return:
  ret void
}
