//! AMX's tile registers: asking for them, and their shape.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

/// What Linux calls the state of tiles, and the request for it (`ARCH_REQ_XCOMP_PERM`).
const TILE_DATA: usize = 18;
const REQUEST: usize = 0x1023;
const ARCH_PRCTL: usize = 158;

/// Whether this processor has tiles of bf16 and of int8, and this process may use them. Threads that it starts from
/// then on may too.
pub fn allowed() -> bool {
    // Leaf 7, EDX: AMX-BF16, AMX-TILE, AMX-INT8.
    const AMX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    if __cpuid_count(7, 0).edx & AMX != AMX {
        return false;
    }
    let refused: isize;
    // SAFETY: the call takes two numbers and changes what this process may do, nothing else.
    unsafe {
        asm!(
            "syscall",
            inout("rax") ARCH_PRCTL => refused,
            in("rdi") REQUEST,
            in("rsi") TILE_DATA,
            out("rcx") _, out("r11") _,
            options(nostack),
        );
    }
    refused == 0
}

/// Eight tiles of 16 rows by 64 bytes, this thread's until dropped.
pub struct Tiles(());

/// As `ldtilecfg` reads it: palette 1, then bytes of a row and rows of each tile.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPE: Shape = Shape {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Tiles {
    /// Gives this thread's tiles their shape.
    pub fn configure() -> Self {
        // SAFETY: the server refuses to start where `allowed` says no.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &SHAPE, options(nostack, readonly)) }
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: nobody uses the tiles of this thread any more.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}
