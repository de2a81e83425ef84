//! Counts what a program asks of the allocator, thread by thread, without a change to the program: loaded before libc
//! (`LD_PRELOAD`), it stands in for `malloc` and its like and hands on to glibc's own.
//!
//! Not part of the harness: compiled by `rustc` when allocations are counted. The counts lie in the file that
//! `SAVILE_COUNTS` names, eight bytes for each thread id modulo the number of places.
#![no_std]

use core::{
    ffi::{c_char, c_int, c_void},
    ptr::null_mut,
    sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed},
};

#[link(name = "c")]
unsafe extern "C" {
    fn __libc_malloc(bytes: usize) -> *mut c_void;
    fn __libc_calloc(n: usize, bytes: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, bytes: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, bytes: usize) -> *mut c_void;
    fn getenv(name: *const c_char) -> *const c_char;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn mmap(at: *mut c_void, bytes: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void;
    fn gettid() -> c_int;
}

/// More than the threads of any server here, so that no two of one process meet.
const PLACES: usize = 1 << 16;

static COUNTS: AtomicPtr<AtomicU64> = AtomicPtr::new(null_mut());

/// Called by the loader before the program begins.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = {
    extern "C" fn begin() {
        const READ_WRITE: c_int = 2;
        // SAFETY: the name ends in a zero; a file of PLACES counts was made by who set the variable.
        unsafe {
            let path = getenv(c"SAVILE_COUNTS".as_ptr());
            if path.is_null() {
                return;
            }
            let file = open(path, READ_WRITE);
            // Readable, writable, shared.
            let counts = mmap(null_mut(), PLACES * size_of::<u64>(), 3, 1, file, 0);
            if file >= 0 && counts as isize != -1 {
                COUNTS.store(counts.cast(), Relaxed);
            }
        }
    }
    begin
};

fn count() {
    let counts = COUNTS.load(Relaxed);
    if !counts.is_null() {
        // SAFETY: the place is inside the map, which stays.
        unsafe { (*counts.add(gettid() as usize % PLACES)).fetch_add(1, Relaxed) };
    }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(bytes: usize) -> *mut c_void {
    count();
    // SAFETY: the caller's.
    unsafe { __libc_malloc(bytes) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(n: usize, bytes: usize) -> *mut c_void {
    count();
    // SAFETY: the caller's.
    unsafe { __libc_calloc(n, bytes) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(old: *mut c_void, bytes: usize) -> *mut c_void {
    count();
    // SAFETY: the caller's.
    unsafe { __libc_realloc(old, bytes) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aligned_alloc(align: usize, bytes: usize) -> *mut c_void {
    count();
    // SAFETY: the caller's.
    unsafe { __libc_memalign(align, bytes) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, bytes: usize) -> c_int {
    const OUT_OF_MEMORY: c_int = 12;
    count();
    // SAFETY: the caller's.
    unsafe {
        let memory = __libc_memalign(align, bytes);
        *out = memory;
        if memory.is_null() { OUT_OF_MEMORY } else { 0 }
    }
}

#[panic_handler]
fn never(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
