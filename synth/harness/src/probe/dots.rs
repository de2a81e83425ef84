//! What the instructions for dot products reach: bf16 and int8, in AMX's tiles and in vectors.
//!
//! Reading prompts is bound by these, so a share of the limit is a share of one of them. Each loop keeps its operands in
//! registers, as many chains at once as cover the latency; all zeros take as long as other numbers.

use std::{
    arch::{asm, x86_64::*},
    hint,
};

use serde::{Deserialize, Serialize};

use super::{REGISTERS, best_rate, has_amx};

/// An instruction that multiplies and adds several small numbers for each result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dot {
    /// `tdpbf16ps`.
    AmxBf16,
    /// `tdpbssd`.
    AmxInt8,
    /// `vdpbf16ps` of 512 bits.
    Avx512Bf16,
    /// `vpdpbusd` of 512 bits.
    Avx512Vnni,
}

/// A rate that was reached, all threads together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DotRate {
    /// The instruction.
    pub dot: Dot,
    /// 10⁹ operations a second; a multiply-add is two.
    pub gops: f64,
}

impl Dot {
    /// All of them.
    pub const ALL: [Dot; 4] = [Dot::AmxBf16, Dot::AmxInt8, Dot::Avx512Bf16, Dot::Avx512Vnni];

    /// Its name, as reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Dot::AmxBf16 => "AMX bf16",
            Dot::AmxInt8 => "AMX int8",
            Dot::Avx512Bf16 => "AVX-512 bf16",
            Dot::Avx512Vnni => "AVX-512 VNNI",
        }
    }

    /// Whether what it multiplies is bf16; else int8.
    #[must_use]
    pub fn is_bf16(self) -> bool {
        matches!(self, Dot::AmxBf16 | Dot::Avx512Bf16)
    }

    fn is_here(self) -> bool {
        match self {
            Dot::AmxBf16 | Dot::AmxInt8 => has_amx() && may_use_tiles(),
            Dot::Avx512Bf16 => is_x86_feature_detected!("avx512bf16"),
            Dot::Avx512Vnni => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni"),
        }
    }

    /// Operations of one instruction.
    fn operations(self) -> usize {
        2 * match self {
            Dot::AmxBf16 => 16 * 16 * 32,
            Dot::AmxInt8 => 16 * 16 * 64,
            Dot::Avx512Bf16 => 32,
            Dot::Avx512Vnni => 64,
        }
    }
}

/// The rate of each of these instructions that the processor has, with `n_threads` threads, in a third of a second each.
#[must_use]
pub fn dot_rates(n_threads: usize) -> Vec<DotRate> {
    Dot::ALL
        .into_iter()
        .filter(|dot| dot.is_here())
        .map(|dot| DotRate { dot, gops: gops(dot, n_threads) })
        .collect()
}

/// The rate of one of them, which the processor has.
pub(super) fn gops(dot: Dot, n_threads: usize) -> f64 {
    const N_ROUNDS: usize = 4_000;
    let n_chains = match dot {
        Dot::AmxBf16 | Dot::AmxInt8 => TILE_CHAINS,
        Dot::Avx512Bf16 | Dot::Avx512Vnni => REGISTERS,
    };
    let operations = (dot.operations() * n_chains * N_ROUNDS * n_threads) as f64;
    best_rate(
        n_threads,
        operations,
        || (),
        |(), _| match dot {
            // SAFETY: `is_here` found tiles that this process may use.
            Dot::AmxBf16 => unsafe { tiles::<true>(N_ROUNDS) },
            // SAFETY: `is_here` found tiles that this process may use.
            Dot::AmxInt8 => unsafe { tiles::<false>(N_ROUNDS) },
            // SAFETY: `is_here` detected the features.
            Dot::Avx512Bf16 => unsafe { avx512_bf16(N_ROUNDS) },
            // SAFETY: `is_here` detected the features.
            Dot::Avx512Vnni => unsafe { avx512_vnni(N_ROUNDS) },
        },
    )
}

/// Whether Linux grants this process the state of tiles (`ARCH_REQ_XCOMP_PERM`); threads started from then on have it too.
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: usize = 158;
    const REQUEST: usize = 0x1023;
    const TILE_DATA: usize = 18;
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

/// Tiles that are added to at once: the other four of eight are operands.
const TILE_CHAINS: usize = 4;

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

/// # Safety
/// The processor has AMX with bf16 and int8, and this process may use it.
unsafe fn tiles<const IS_BF16: bool>(n_rounds: usize) {
    // SAFETY: the caller's; configured tiles are zero, and released again.
    unsafe {
        asm!(
            "ldtilecfg [{shape}]",
            "2:",
            ".if {is_bf16}",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            ".else",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            ".endif",
            "dec {rounds}",
            "jnz 2b",
            "tilerelease",
            shape = in(reg) &SHAPE,
            rounds = inout(reg) n_rounds => _,
            is_bf16 = const IS_BF16 as usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn avx512_bf16(n_rounds: usize) {
    let mut sums = [_mm512_setzero_ps(); REGISTERS];
    // SAFETY: both are 64 bytes without a meaning of their own.
    let ones: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi16(hint::black_box(0x3f80))) };
    for _ in 0..n_rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, ones, ones);
        }
    }
    hint::black_box(sums);
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn avx512_vnni(n_rounds: usize) {
    let mut sums = [_mm512_setzero_si512(); REGISTERS];
    let ones = _mm512_set1_epi8(hint::black_box(1));
    for _ in 0..n_rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, ones, ones);
        }
    }
    hint::black_box(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rate of what is not there would be an illegal instruction; one that is there is neither nothing nor magic.
    #[test]
    fn what_the_processor_has_has_a_rate() {
        let rates = dot_rates(1);
        let here: Vec<Dot> = Dot::ALL.into_iter().filter(|dot| dot.is_here()).collect();
        assert_eq!(rates.iter().map(|it| it.dot).collect::<Vec<_>>(), here);
        assert!(rates.iter().all(|it| it.gops > 0.1 && it.gops < 1e6), "{rates:?}");
    }
}
