//! What the operating system knows of this process.

#[repr(C)]
#[derive(Default)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

#[repr(C)]
#[derive(Default)]
struct Usage {
    user: [i64; 2], // seconds, microseconds
    system: [i64; 2],
    rest: [i64; 14],
}

const CLOCK_MONOTONIC: i32 = 1;
const RUSAGE_SELF: i32 = 0;

extern "C" {
    fn clock_gettime(clock: i32, time: *mut TimeSpec) -> i32;
    fn getrusage(who: i32, usage: *mut Usage) -> i32;
}

/// The clock that all processes share, in nanoseconds.
pub fn monotonic_ns() -> i64 {
    let mut time = TimeSpec::default();
    unsafe { clock_gettime(CLOCK_MONOTONIC, &mut time) };
    time.seconds * 1_000_000_000 + time.nanoseconds
}

/// The CPU time of this process, all threads.
pub fn cpu_seconds() -> f64 {
    let mut usage = Usage::default();
    unsafe { getrusage(RUSAGE_SELF, &mut usage) };
    let seconds = |time: [i64; 2]| time[0] as f64 + time[1] as f64 / 1e6;
    seconds(usage.user) + seconds(usage.system)
}
